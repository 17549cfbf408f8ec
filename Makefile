# aptp. Users edit Makefile.inc alone. `make help` lists the targets.
include Makefile.inc
-include $(if $(MACHINE),jobs/machines/$(MACHINE).inc)

# ---- variants: build/cpu, build/cuda (CUDA=1), build/emulator (EMULATOR=1: cuda/ on the CPU), each with -sanitize (SANITIZE=1),
# and build/fuzz (`make fuzz`)
VARIANT  := $(if $(EMULATOR),emulator,$(if $(CUDA),cuda,cpu))$(if $(SANITIZE),-sanitize)
BUILD    := build/$(VARIANT)
# Where the objects lie that know of no GPU: cuda and emulator share them with cpu.
HOST     := $(if $(CUDA)$(EMULATOR),build/cpu$(if $(SANITIZE),-sanitize),$(BUILD))
PROGRAM  := $(if $(EMULATOR)$(SANITIZE),$(BUILD)/aptp,aptp)
VENV     := build/venv

# ---- compiler and libraries
PKG_CONFIG = pkg-config
CPPFLAGS_LIBS ?= $(shell $(PKG_CONFIG) --cflags $(PKG) 2>/dev/null)
LDLIBS_LIBS   ?= $(shell $(PKG_CONFIG) --libs $(PKG) 2>/dev/null)
COMMIT   := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
CPPFLAGS  = -Isrc $(patsubst -I%,-isystem %,$(CPPFLAGS_LIBS)) $(if $(DEBUG)$(SANITIZE),,-DNDEBUG)
CFLAGS    = -std=c11 -Wall -Wextra $(if $(WERROR),-Werror) $(OPT) -march=$(strip $(ARCH)) -g -fopenmp -MMD -MP \
            -fno-math-errno -fno-trapping-math $(if $(SANITIZE),-fsanitize=$(SANITIZERS) -fno-sanitize-recover=undefined -O1)
LDFLAGS   = -fopenmp -g $(if $(SANITIZE),-fsanitize=$(SANITIZERS))
LDLIBS    = $(LDLIBS_LIBS) $(LIB_DNNL) $(LIB_CSV) -lm -lpthread
SANITIZERS = address,undefined

# ---- the CUDA backend, and the emulator that it runs on where there is no GPU. The emulator sees each access to memory that the
# backend makes: g++ compiles cuda/ with the calls of its thread and alignment sanitizers, which test/emulator/ defines.
NVCCFLAGS = -std=c++20 -O3 -lineinfo -Isrc -Icuda $(foreach arch,$(CUDA_ARCH),-gencode arch=compute_$(arch),code=sm_$(arch)) \
            -gencode arch=compute_$(lastword $(CUDA_ARCH)),code=compute_$(lastword $(CUDA_ARCH)) \
            -Xcompiler -Wall,-Wextra $(if $(WERROR),-Werror all-warnings) -MMD -MP
CHECKED       = -fsanitize=thread,alignment -fno-sanitize=null
EMULATORFLAGS = -std=c++20 -Wall -Wextra $(if $(WERROR),-Werror) -O2 -g -march=$(strip $(ARCH)) -MMD -MP -Itest/emulator/include -Itest/emulator -Isrc -Icuda
comma    := ,
Q         = $(if $(V),,@)

# ---- sources
SOURCES  := $(sort $(wildcard src/*/*.c src/*/*/*.c))
SWITCHES := src/tensor/backend.c src/tensor/device.c
OBJECTS  := $(patsubst src/%.c,$(HOST)/%.o,$(filter-out $(SWITCHES),$(SOURCES))) $(SWITCHES:src/%.c=$(BUILD)/%.o) \
            $(if $(CUDA)$(EMULATOR),$(patsubst cuda/%.cu,$(BUILD)/cuda/%.o,$(sort $(wildcard cuda/*.cu)))) \
            $(if $(EMULATOR),$(patsubst test/emulator/%.cpp,$(BUILD)/emulator/%.o,$(filter-out test/emulator/test_%,$(sort $(wildcard test/emulator/*.cpp)))))
TESTS    := $(patsubst test/%.c,$(BUILD)/test/%,$(sort $(wildcard test/*/test_*.c))) \
            $(if $(EMULATOR),$(patsubst test/%.cpp,$(BUILD)/test/%,$(sort $(wildcard test/emulator/test_*.cpp))))
SUPPORT  := $(patsubst test/%.c,$(HOST)/test/%.o,$(sort $(wildcard test/support/*.c)))
HARNESSES := $(patsubst test/%.c,$(BUILD)/test/%,$(sort $(wildcard test/fuzz/fuzz_*.c)))

ifneq ($(CUDA)$(EMULATOR),)
$(SWITCHES:src/%.c=$(BUILD)/%.o): CPPFLAGS += -Icuda -DAPTP_CUDA
LDLIBS   += $(if $(EMULATOR),,-L$(CUDA_HOME)/lib64 -Wl$(comma)-rpath$(comma)$(CUDA_HOME)/lib64 -lcublasLt -lcudnn -lcudart) -lstdc++
endif

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all help info deps venv check check-emulator check-nvcc check-gpu check-python check-mpnet test tests mutants fuzz harnesses lint demo study study-results check-report bench bench-gpu reference reference-full rehearsal readme clean FORCE

all: $(PROGRAM)          ## the program alone (what `make` does)

# ./aptp is that of the variant which was made last.
$(PROGRAM): $(HOST)/main.o $(BUILD)/libaptp.a $(if $(filter aptp$(VARIANT),$(PROGRAM)$(shell cat build/variant 2>/dev/null))$(filter-out aptp,$(PROGRAM)),,FORCE)
	@echo "  link    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter-out FORCE,$^) $(LDLIBS)
	$(Q)$(if $(filter aptp,$@),echo $(VARIANT) > build/variant)

$(BUILD)/libaptp.a: $(OBJECTS)
	$(Q)rm -f $@ && $(AR) rcs $@ $^

define COMPILE
	@mkdir -p $(@D); echo "  cc      $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
endef
$(HOST)/%.o: src/%.c | $(HOST)/libraries
	$(COMPILE)
ifneq ($(HOST),$(BUILD))
$(BUILD)/%.o: src/%.c | $(HOST)/libraries
	$(COMPILE)
endif

ifdef EMULATOR
$(BUILD)/cuda/%.o: cuda/%.cu
	@mkdir -p $(@D); echo "  c++     $<"
	$(Q)$(CXX) $(EMULATORFLAGS) $(CHECKED) -x c++ -c -o $@ $<

$(BUILD)/emulator/%.o: test/emulator/%.cpp
	@mkdir -p $(@D); echo "  c++     $<"
	$(Q)$(CXX) $(EMULATORFLAGS) $(if $(SANITIZE),-fsanitize=$(SANITIZERS)) -c -o $@ $<
$(BUILD)/emulator/mpi.o $(BUILD)/emulator/test_emulator.o: EMULATORFLAGS += $(patsubst -I%,-isystem %,$(CPPFLAGS_LIBS))

# The emulator's own tests: kernels and calls that are right, and those that are broken on purpose.
$(BUILD)/emulator/broken/%.o: test/emulator/broken/%.cu
	@mkdir -p $(@D); echo "  c++     $<"
	$(Q)$(CXX) $(EMULATORFLAGS) $(CHECKED) -x c++ -c -o $@ $<

$(BUILD)/test/emulator/test_%: $(BUILD)/emulator/test_%.o $(patsubst test/%.cu,$(BUILD)/%.o,$(wildcard test/emulator/broken/*.cu)) $(BUILD)/libaptp.a
	@mkdir -p $(@D); echo "  test    $@"
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka
else
$(BUILD)/cuda/%.o: cuda/%.cu
	@mkdir -p $(@D); echo "  nvcc    $<"
	$(Q)$(NVCC) $(NVCCFLAGS) -c -o $@ $<
endif

# The version strings change with each commit: only this object sees them.
$(HOST)/base/version.o: CPPFLAGS += -DAPTP_COMMIT='"$(COMMIT)"' -DAPTP_CFLAGS='"$(strip $(CC) $(OPT) -march=$(strip $(ARCH)))"'
$(HOST)/base/version.o: $(if $(filter-out $(COMMIT),$(shell cat $(HOST)/commit 2>/dev/null)),FORCE)
FORCE:
	@mkdir -p $(HOST); echo '$(COMMIT)' > $(HOST)/commit

# Every library is asked for by name before the first file is compiled.
$(HOST)/libraries: Makefile.inc
	@mkdir -p $(HOST); echo '$(COMMIT)' > $(HOST)/commit
	$(Q)CC="$(CC)" PKG_CONFIG="$(PKG_CONFIG)" LIB_DNNL="$(LIB_DNNL)" LIB_CSV="$(LIB_CSV)" sh test/lint/libraries.sh $(PKG)
	@touch $@

$(HOST)/test/%.o: test/%.c | $(HOST)/libraries
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) -Itest $(CFLAGS) -c -o $@ $<

$(BUILD)/test/%: $(HOST)/test/%.o $(SUPPORT) $(BUILD)/libaptp.a
	@mkdir -p $(@D); echo "  test    $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka -lz

# A harness of hostile input: under libFuzzer, which has the main(), or replayed by ours.
$(BUILD)/test/fuzz/fuzz_%: $(addprefix $(BUILD)/test/,fuzz/fuzz_%.o fuzz/harness.o $(if $(FUZZER),,fuzz/replay.o) support/files.o) $(BUILD)/libaptp.a
	@echo "  harness $@"
	$(Q)$(CC) $(LDFLAGS) $(FUZZER) -o $@ $^ $(LDLIBS) -lz

-include $(OBJECTS:.o=.d) $(HOST)/main.d $(patsubst $(BUILD)/%,$(HOST)/%.d,$(TESTS) $(HARNESSES)) $(SUPPORT:.o=.d) $(wildcard $(BUILD)/test/fuzz/*.d)

# ---- targets
help:                    ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

info:                    ## compiler, libraries and versions found
	@sh test/lint/info.sh "$(CC)" "$(PKG_CONFIG)" "$(PKG)" "$(CFLAGS)" "$(COMMIT)" "$(NVCC)"

deps:                    ## install missing Debian packages (root or sudo)
	$(Q)sh test/lint/deps.sh $(PACKAGES)

venv: $(VENV)/done       ## Python environment of the tools, in build/venv
	@:
$(VENV)/done: postproc/requirements.txt
	$(Q)sh postproc/make_venv.sh $(VENV) $(PYTHON)

tests: $(PROGRAM) $(TESTS) $(HARNESSES)

test: tests
	$(Q)MPIRUN="$(MPIRUN)" sh test/run.sh $(BUILD) $(PROGRAM)

# What is run on GPUs, real or emulated: ops, products, attention, gradient sums and AdamW on one rank and several, networks, the chain
GPU_SUITES = tensor/test_ops tensor/test_products tensor/test_attention train/test_gradient_buckets_ranks train/test_optimiser_ranks
GPU_SCRIPTS = test/gpu/test_parity.sh test/gpu/test_gpu.py
EMULATOR_TESTS = emulator/test_emulator emulator/test_libraries

check: deps              ## all tests and lint; the CUDA backend on emulated GPUs, and compiled by nvcc where that is
	$(Q)$(MAKE) --no-print-directory venv
	$(Q)$(MAKE) --no-print-directory WERROR=1 -j$$(nproc) all tests
	$(Q)$(MAKE) --no-print-directory WERROR=1 lint test
	$(Q)$(MAKE) --no-print-directory WERROR=1 check-emulator check-nvcc

check-emulator:          ## the CUDA backend's suites on emulated GPUs
	$(Q)$(MAKE) --no-print-directory EMULATOR=1 -j$$(nproc) all $(addprefix build/emulator$(if $(SANITIZE),-sanitize)/test/,$(GPU_SUITES) $(EMULATOR_TESTS))
	$(Q)APTP_EMULATOR_CUDA_AWARE=1 MPIRUN="$(MPIRUN)" sh test/run.sh build/emulator$(if $(SANITIZE),-sanitize) build/emulator$(if $(SANITIZE),-sanitize)/aptp \
	    $(EMULATOR_TESTS) $(GPU_SUITES) $(GPU_SCRIPTS)

check-nvcc:              ## the CUDA backend compiled for every architecture of CUDA_ARCH, and linked
	$(Q)if [ -x "$(NVCC)" ]; then $(MAKE) --no-print-directory CUDA=1 SANITIZE= PROGRAM=build/cuda/aptp -j$$(nproc) all; \
	    else echo "  nvcc    not found at $(NVCC): the CUDA backend has not been compiled by it"; fi

check-gpu:               ## on a machine with a GPU: the suites on it, and compute-sanitizer on the op suite
	$(Q)$(MAKE) --no-print-directory CUDA=1 -j$$(nproc) all $(addprefix build/cuda/test/,$(GPU_SUITES))
	$(Q)MPIRUN="$(MPIRUN)" sh test/gpu/check.sh build/cuda aptp $(CUDA_HOME) $(GPU_SUITES) $(GPU_SCRIPTS)

mutants: deps            ## break the code on purpose (ONLY=names): each time a test must fail
	$(Q)$(MAKE) --no-print-directory venv
	$(Q)MPIRUN="$(MPIRUN)" sh test/mutants/run.sh $(BUILD) $(PROGRAM) $(ONLY)

fuzz:                    ## hostile input for every reader of foreign files (MINUTES=10 each; FUZZ=names: those alone); needs clang
	$(Q)sh test/lint/deps.sh $(FUZZ_PACKAGES)
	$(Q)$(MAKE) --no-print-directory VARIANT=fuzz CC="$(CLANG)" SANITIZE=1 SANITIZERS=address,undefined,fuzzer-no-link \
	    FUZZER=-fsanitize=fuzzer harnesses
	$(Q)sh test/fuzz/run.sh build/fuzz $(or $(MINUTES),10) $(FUZZ)

harnesses: $(HARNESSES)

lint:                    ## formatting, order of rooms, backend tests outside their rooms
	$(Q)sh test/lint/lint.sh "$(CLANG_FORMAT)"

# ---- the demo: rules by file, so a step that is done is not repeated and an interrupted one goes on
DEMO     := build/demo
TOOL      = $(VENV)/bin/python postproc
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1

demo: deps               ## prune a real diffusion model on real pictures: at most 20 minutes on 2 cores
	$(Q)$(MAKE) --no-print-directory venv all
	$(Q)$(MAKE) --no-print-directory $(DEMO)/report.html
	@echo "  demo    done. Open $(DEMO)/report.html in a browser; pictures by the experts: $(DEMO)/samples.png"

$(DEMO)/pictures/index.tsv:
	@echo "  demo    1 of 9: pictures and their captions"
	$(Q)$(TOOL)/make_pictures.py $(@D)

$(DEMO)/data.h5: $(DEMO)/pictures/index.tsv input/emoji/prepare.cfg
	@echo "  demo    2 of 9: prepare, latents and encoded captions"
	$(Q)./aptp input/emoji/prepare.cfg

# A finished run whose inputs have changed starts anew; one that was interrupted goes on from its checkpoint.
$(DEMO)/router.h5: $(DEMO)/data.h5 input/emoji/teacher.h5 input/emoji/prune.cfg
	@echo "  demo    3 of 9: prune, the router and the experts (minutes; progress in $(DEMO)/prune.csv)"
	$(Q)if [ -f $@ ]; then rm -f $@ $(DEMO)/prune.checkpoint.h5 $(DEMO)/prune.csv; fi
	$(Q)./aptp input/emoji/prune.cfg

$(DEMO)/assignment.h5: $(DEMO)/router.h5 input/emoji/assign.cfg
	@echo "  demo    4 of 9: assign, the expert of every prompt"
	$(Q)./aptp input/emoji/assign.cfg

$(DEMO)/bench.h5: $(DEMO)/router.h5 input/emoji/bench.cfg
	@echo "  demo    5 of 9: bench, time and memory of the teacher and the experts"
	$(Q)./aptp input/emoji/bench.cfg

$(DEMO)/finetune.done: $(DEMO)/assignment.h5 input/emoji/finetune.cfg
	@echo "  demo    6 of 9: finetune, every expert on its own prompts (minutes; postproc/watch.py $(DEMO) shows the curves)"
	$(Q)if [ -f $@ ]; then rm -f $@ $(DEMO)/expert_*.h5 $(DEMO)/finetune_*; fi
	$(Q)./aptp input/emoji/finetune.cfg
	$(Q)touch $@

$(DEMO)/samples.h5: $(DEMO)/finetune.done input/emoji/sample.cfg
	@echo "  demo    7 of 9: sample, pictures of held-out prompts by their experts"
	$(Q)./aptp input/emoji/sample.cfg

$(DEMO)/metrics.h5: $(DEMO)/samples.h5 input/emoji/clip.h5 input/emoji/evaluate.cfg
	@echo "  demo    8 of 9: evaluate, how good they are"
	$(Q)./aptp input/emoji/evaluate.cfg

$(DEMO)/report.html: $(DEMO)/assignment.h5 $(DEMO)/bench.h5 $(DEMO)/metrics.h5 $(addprefix postproc/,report.py experts.py figures.py page.py page.html.jinja run_folder.py clusters.py command_line.py)
	@echo "  demo    9 of 9: report"
	$(Q)$(TOOL)/report.py $(DEMO)

study: deps              ## the study's runs (hours; PART=1: those of a part; MINUTES=60: as far as that goes): input/emoji/study/RESULTS.md
	$(Q)$(MAKE) --no-print-directory venv all
	$(Q)$(MAKE) --no-print-directory $(DEMO)/data.h5
	$(Q)$(TOOL)/study.py --program ./$(PROGRAM) $(PART:%=--part %) $(MINUTES:%=--minutes %)
	$(Q)$(TOOL)/study_results.py

study-results: venv      ## input/emoji/study/RESULTS.md and its pictures from the results that are there
	$(Q)$(TOOL)/study_results.py

check-report:            ## the demo's report as Chromium shows it: build/demo/report.png
	$(Q)sh test/lint/deps.sh chromium
	$(Q)$(MAKE) --no-print-directory venv
	$(Q)$(VENV)/bin/python test/postproc/screenshot.py $(DEMO)/report.html $(DEMO)/report.png

# The paper's prompt encoder, 438 MB: not a part of `make check`.
MPNET    := build/all-mpnet-base-v2
$(MPNET)/modules.json:
	@echo "  fetch   $(@D)"
	$(Q)$(TOOL)/fetch_mpnet.py $(@D)

check-mpnet: deps        ## fetch all-mpnet-base-v2 (400 MB, into build/) and compare its embeddings with transformers'
	$(Q)$(MAKE) --no-print-directory venv all
	$(Q)$(MAKE) --no-print-directory $(MPNET)/modules.json
	$(Q)sh test/phases/check_mpnet.sh $(PROGRAM) $(MPNET)

bench:                   ## SD 2.1 at full size: speed, memory, the machine's roof; beside diffusers where PYTORCH has it
	$(Q)$(MAKE) --no-print-directory venv all
	$(Q)$(TOOL)/bench.py ./$(PROGRAM) build/bench --pytorch $(PYTORCH)

bench-gpu:               ## the same on a GPU, in at most 10 minutes behind the build: a table and build/bench-gpu/bench.json
	$(Q)[ -e /dev/nvidiactl ] || nvidia-smi -L > /dev/null 2>&1 || { echo "bench-gpu: this machine has no GPU" >&2; exit 2; }
	$(Q)$(MAKE) --no-print-directory CUDA=1 -j$$(nproc) venv all
	$(Q)$(TOOL)/bench.py ./aptp build/bench-gpu --gpu --rounds 1 --minutes 9 --pytorch $(PYTORCH)

# ORIGINAL: a copy of github.com/rezashkv/diffusion_pruning, whose classes then write the checkpoint that is read.
check-python: all        ## exported experts in diffusers, the demo's too (PYTORCH: a Python with torch, diffusers, transformers, h5py)
	$(Q)if [ -f $(DEMO)/finetune.done ]; then ./$(PROGRAM) input/emoji/export.cfg; fi
	$(Q)$(PYTORCH) test/postproc/check_diffusers.py $(PROGRAM) $(DEMO)
	$(Q)$(PYTORCH) test/postproc/check_released.py $(PROGRAM) $(ORIGINAL)

# REHEARSAL: some of coco-078 coco-064 cc3m-085 cc3m-066
rehearsal: deps          ## the paper's studies in short, networks of full size with random weights (an hour; PYTORCH as for reference)
	$(Q)$(MAKE) --no-print-directory venv all
	$(Q)$(MAKE) --no-print-directory $(DEMO)/pictures/index.tsv
	$(Q)sh test/rehearsal/run.sh $(PROGRAM) $(VENV) $(PYTORCH) $(DEMO)/pictures build/rehearsal $(REHEARSAL)

reference:               ## make test/fixtures again (PYTORCH: a Python with torch, diffusers, transformers)
	$(Q)$(PYTORCH) test/reference/make_all.py

reference-full: all      ## whole SD 2.1, CLIP and Inception with random weights beside PyTorch: minutes, 12 GB of memory, 8 GB of disk
	$(Q)$(PYTORCH) test/reference/full_all.py ./$(PROGRAM) $(ONLY)

readme: $(PROGRAM)       ## put the generated references into README.md
	$(Q)$(PYTHON) postproc/update_readme.py $(PROGRAM) README.md

clean:                   ## remove what was built
	rm -rf build/cpu build/cuda build/emulator build/*-sanitize build/variant build/fuzz build/mutants aptp
