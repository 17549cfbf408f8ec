# aptp. Users edit Makefile.inc alone. `make help` lists the targets.
include Makefile.inc
-include $(if $(MACHINE),jobs/machines/$(MACHINE).inc)

# ---- variants: build/cpu, build/cpu-sanitize
VARIANT  := cpu$(if $(SANITIZE),-sanitize)
BUILD    := build/$(VARIANT)
PROGRAM  := $(if $(SANITIZE),$(BUILD)/aptp,aptp)
VENV     := build/venv

# ---- compiler and libraries
PKG_CONFIG = pkg-config
CPPFLAGS_LIBS ?= $(shell $(PKG_CONFIG) --cflags $(PKG) 2>/dev/null)
LDLIBS_LIBS   ?= $(shell $(PKG_CONFIG) --libs $(PKG) 2>/dev/null)
COMMIT   := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
CPPFLAGS  = -Isrc $(patsubst -I%,-isystem %,$(CPPFLAGS_LIBS)) $(if $(DEBUG)$(SANITIZE),,-DNDEBUG)
CFLAGS    = -std=c11 -Wall -Wextra $(if $(WERROR),-Werror) $(OPT) -march=$(strip $(ARCH)) -g -fopenmp -MMD -MP \
            -fno-math-errno -fno-trapping-math $(if $(SANITIZE),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -O1)
LDFLAGS   = -fopenmp -g $(if $(SANITIZE),-fsanitize=address$(comma)undefined)
LDLIBS    = $(LDLIBS_LIBS) $(LIB_DNNL) $(LIB_CSV) -lm -lpthread
comma    := ,
Q         = $(if $(V),,@)

# ---- sources
SOURCES  := $(sort $(wildcard src/*/*.c src/*/*/*.c))
OBJECTS  := $(SOURCES:src/%.c=$(BUILD)/%.o)
TESTS    := $(patsubst test/%.c,$(BUILD)/test/%,$(sort $(wildcard test/*/test_*.c)))
SUPPORT  := $(patsubst test/%.c,$(BUILD)/test/%.o,$(sort $(wildcard test/support/*.c)))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all help info deps venv check test lint demo bench reference clean FORCE

all: $(PROGRAM)

$(PROGRAM): $(BUILD)/main.o $(BUILD)/libaptp.a
	@echo "  link    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/libaptp.a: $(OBJECTS)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/%.o: src/%.c | $(BUILD)/libraries
	@mkdir -p $(@D); echo "  cc      $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# The version strings change with each commit: only this object sees them.
$(BUILD)/base/version.o: CPPFLAGS += -DAPTP_COMMIT='"$(COMMIT)"' -DAPTP_CFLAGS='"$(strip $(CC) $(OPT) -march=$(strip $(ARCH)))"'
$(BUILD)/base/version.o: $(if $(filter-out $(COMMIT),$(shell cat $(BUILD)/commit 2>/dev/null)),FORCE)
FORCE:
	@mkdir -p $(BUILD); echo '$(COMMIT)' > $(BUILD)/commit

# Every library is asked for by name before the first file is compiled.
$(BUILD)/libraries: Makefile.inc
	@mkdir -p $(BUILD); echo '$(COMMIT)' > $(BUILD)/commit
	$(Q)CC="$(CC)" PKG_CONFIG="$(PKG_CONFIG)" LIB_DNNL="$(LIB_DNNL)" LIB_CSV="$(LIB_CSV)" sh test/lint/libraries.sh $(PKG)
	@touch $@

$(BUILD)/test/%.o: test/%.c | $(BUILD)/libraries
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -Itest $(CFLAGS) -c -o $@ $<

$(BUILD)/test/%: $(BUILD)/test/%.o $(SUPPORT) $(BUILD)/libaptp.a
	@echo "  test    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

-include $(OBJECTS:.o=.d) $(BUILD)/main.d $(addsuffix .d,$(TESTS)) $(SUPPORT:.o=.d)

# ---- targets
help:                    ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

info:                    ## compiler, libraries and versions found
	@sh test/lint/info.sh "$(CC)" "$(PKG_CONFIG)" "$(PKG)" "$(CFLAGS)" "$(COMMIT)" "$(NVCC)"

deps:                    ## install missing Debian packages (root or sudo)
	$(Q)sh test/lint/deps.sh $(PACKAGES)

venv: $(VENV)/done       ## Python environment of the tools, in build/venv
$(VENV)/done: postproc/requirements.txt
	$(Q)sh postproc/make_venv.sh $(VENV) $(PYTHON)

test: $(PROGRAM) $(TESTS)
	$(Q)MPIRUN="$(MPIRUN)" sh test/run.sh $(BUILD) $(PROGRAM)

check: deps              ## all tests and lint
	$(Q)$(MAKE) --no-print-directory venv
	$(Q)$(MAKE) --no-print-directory WERROR=1 all lint test

lint:                    ## formatting, order of rooms, backend tests outside their rooms
	$(Q)sh test/lint/lint.sh "$(CLANG_FORMAT)"

clean:                   ## remove what was built
	rm -rf build/cpu build/cpu-sanitize aptp
