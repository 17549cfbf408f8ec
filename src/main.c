/* aptp: reads a deck and runs the phase that it names.
 *
 * 1. Arguments. 2. Rank 0 reads the deck and checks every key; all ranks get the full effective deck or the
 * fault. 3. Threads and banner. 4. The phase. 5. Timers, fault, exit code, the same on all ranks. */
#define _POSIX_C_SOURCE 200809L // gmtime_r
#include "base/check.h"
#include "base/cores.h"
#include "base/version.h"
#include "io/folder.h"
#include "io/hdf5_file.h"
#include "io/timer_json.h"
#include "phases/assign.h"
#include "phases/bench.h"
#include "phases/evaluate.h"
#include "phases/export.h"
#include "phases/finetune.h"
#include "phases/import.h"
#include "phases/phase.h"
#include "phases/prepare.h"
#include "phases/pretrain.h"
#include "phases/prune.h"
#include "phases/sample.h"
#include "phases/verify.h"
#include "tensor/cpu/libraries.h"
#include "tensor/device.h"
#include "tensor/roof.h"

#include <getopt.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct arguments {
    const char *positional; /* DECK, or the topic of --help; NULL: none */
    const char **set;       /* "key=value", in their order; the strings are borrowed */
    int sets;
    bool check, help, version;
};

static bool parse_arguments(struct arguments *arguments, int argc, char **argv, struct fault *fault)
{
    enum { SET = 1, CHECK_ONLY, QUIET, VERBOSE, ALL_RANKS, HELP, VERSION };
    static const struct option options[] = {
        {"set", required_argument, NULL, SET},
        {"check", no_argument, NULL, CHECK_ONLY},
        {"quiet", no_argument, NULL, QUIET},
        {"verbose", no_argument, NULL, VERBOSE},
        {"log-all-ranks", no_argument, NULL, ALL_RANKS},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {NULL, 0, NULL, 0},
    };
    arguments->set = check_calloc((size_t)argc, sizeof *arguments->set);
    opterr = 0; // faults are printed once, by rank 0
    for (int option; (option = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (option) {
        case SET:
            arguments->set[arguments->sets++] = optarg;
            break;
        case CHECK_ONLY:
            arguments->check = true;
            break;
        case QUIET:
            arguments->set[arguments->sets++] = "run.log=quiet";
            break;
        case VERBOSE:
            arguments->set[arguments->sets++] = "run.log=verbose";
            break;
        case ALL_RANKS:
            arguments->set[arguments->sets++] = "run.log_all_ranks=true";
            break;
        case 'h':
        case HELP:
            arguments->help = true;
            break;
        case VERSION:
            arguments->version = true;
            break;
        case ':':
            return fault_raise(fault, EXIT_CODE_DECK, "option %.100s needs a value; see aptp --help",
                               argv[optind - 1]);
        default:
            return fault_raise(fault, EXIT_CODE_DECK, "unknown option %.100s; see aptp --help",
                               argv[optind - 1]);
        }
    }
    arguments->positional = argv[optind];
    if (optind + 1 < argc)
        return fault_raise(fault, EXIT_CODE_DECK, "one deck is expected, %.100s is too much; see aptp --help",
                           argv[optind + 1]);
    if (!arguments->positional && !arguments->help && !arguments->version)
        return fault_raise(fault, EXIT_CODE_DECK, "no deck is given; see aptp --help");
    return true;
}

static void print_usage(void)
{
    printf("aptp: prompt-tailored pruning of text-to-image diffusion models\n\n"
           "  [mpirun -np RANKS] aptp DECK [--set KEY=VALUE]... [--check] [--quiet | --verbose] "
           "[--log-all-ranks]\n"
           "  aptp --help [PHASE | keys | files | files-markdown]\n"
           "  aptp --version\n\n"
           "  --set KEY=VALUE   overrides a key of the deck, for instance --set prune.steps=50\n"
           "  --check           checks the deck, opens the inputs, prints steps and planned memory; writes "
           "nothing\n"
           "  --quiet           warnings alone; --verbose: details too\n"
           "  --log-all-ranks   every rank prints, not rank 0 alone\n\n"
           "Phases, chosen by the deck's key `phase`:\n");
    for (enum phase_id phase = 0; phase < PHASES; phase++)
        printf("  %-10s %s\n", phase_name(phase), phase_meaning(phase));
    printf("\nExit codes: 0 done, 1 verify found a difference, 2 deck or usage, 3 input file, 4 output or "
           "disk,\n"
           "5 internal error, 75 stopped early with a checkpoint (run again to go on).\n");
}

static bool print_help(const char *topic, struct fault *fault)
{
    enum phase_id phase = topic ? phase_find(topic) : PHASES;
    if (!topic)
        print_usage();
    else if (phase < PHASES)
        keys_help(stdout, phase);
    else if (strcmp(topic, "keys") == 0)
        keys_markdown(stdout);
    else if (strcmp(topic, "files") == 0)
        file_schema_print(stdout, false);
    else if (strcmp(topic, "files-markdown") == 0)
        file_schema_print(stdout, true);
    else
        return fault_raise(fault, EXIT_CODE_DECK, "no help on %.100s; see aptp --help", topic);
    return true;
}

static void print_version(void)
{
    char *mpi = comm_library(), *libraries = cpu_libraries(), *gpu = device_libraries();
    printf("aptp %s, commit %s\ncompiler: %s\noptions: %s\nMPI: %s\nHDF5: %s\nlibraries: %s%s%s\nbackends: "
           "cpu%s\n",
           version_program(), version_commit(), version_compiler(), version_options(), mpi, h5_library(),
           libraries, gpu ? ", " : "", gpu ? gpu : "", gpu ? ", cuda" : "");
    free(mpi);
    free(libraries);
    free(gpu);
}

// ---- the deck

/* Settles what the deck leaves to the machine, the backend and the precision: a restart and all ranks then
 * have the same. */
static bool settle(struct deck *deck, const struct run_cfg *cfg, bool check_only, struct fault *fault)
{
    bool gpu = cfg->backend == RUN_BACKEND_CUDA || (cfg->backend == RUN_BACKEND_AUTO && device_count() > 0);
    if (gpu && !device_built())
        return fault_raise(fault, EXIT_CODE_DECK,
                           "run.backend is \"cuda\", without which this program was built (make CUDA=1); "
                           "allowed here: cpu, auto");
    if (gpu && device_count() == 0 && !check_only)
        return fault_raise(fault, EXIT_CODE_DECK,
                           "run.backend is \"cuda\", and there is no GPU; allowed here: cpu, auto");
    if (!gpu && cfg->tf32)
        return fault_raise(fault, EXIT_CODE_DECK, "run.tf32 is true, which GPUs alone have (run.backend)");
    if (cfg->backend == RUN_BACKEND_AUTO &&
        !deck_set(deck, gpu ? "run.backend=cuda" : "run.backend=cpu", fault))
        return false;
    if (cfg->precision != PRECISION_AUTO) return true;
    bool bf16 = gpu ? device_count() == 0 || device_has_bf16() : roof_prefers_bf16();
    return deck_set(deck, bf16 ? "run.precision=bf16" : "run.precision=fp32", fault);
}

/* Reads and checks the deck with its --set values; *text is the full effective deck, in which backend and
 * precision are settled. Rank 0 alone. */
static bool read_deck(const struct arguments *arguments, char **text, struct fault *fault)
{
    struct deck deck = {0};
    union phase_cfg cfg;
    enum phase_id phase;
    bool ok = deck_read(&deck, arguments->positional, fault);
    for (int i = 0; ok && i < arguments->sets; i++) ok = deck_set(&deck, arguments->set[i], fault);
    ok = ok && keys_phase(&deck, &phase, fault) && keys_fill(&deck, phase, &cfg, fault);
    if (ok) {
        ok = settle(&deck, &cfg.run, arguments->check, fault);
        *text = keys_effective_deck(&deck, phase);
        keys_free(phase, &cfg);
    }
    deck_clear(&deck);
    return ok;
}

/* Gives rank 0's string to all ranks; the caller frees it. */
static void share_text(const struct comm *comm, char **text)
{
    size_t bytes = *text ? strlen(*text) + 1 : 0;
    comm_broadcast(comm, 0, &bytes, sizeof bytes);
    if (comm_rank(comm) != 0) *text = check_malloc(bytes);
    comm_broadcast(comm, 0, *text, bytes);
}

/* Fills the config from the effective deck, which rank 0 has checked. */
static enum phase_id fill_config(const char *text, union phase_cfg *cfg)
{
    struct deck deck = {0};
    struct fault fault = {0};
    enum phase_id phase;
    CHECK(deck_parse(&deck, text, "effective deck", &fault) && keys_phase(&deck, &phase, &fault) &&
              keys_fill(&deck, phase, cfg, &fault),
          "%s", fault.text);
    deck_clear(&deck);
    return phase;
}

// ---- threads and banner

/* Threads of this rank: the deck's, else OMP_NUM_THREADS, else its share of the machine's cores. */
static int set_threads(const struct comm *comm, const struct run_cfg *cfg)
{
    int share = cores_online() / comm_node_size(comm);
    int threads = (int)cfg->threads;
    if (threads == 0 && !getenv("OMP_NUM_THREADS")) {
        threads = cores_allowed() < share ? cores_allowed() : share;
        if (threads < 1) threads = 1;
    }
    if (threads > 0) omp_set_num_threads(threads);
    cpu_set_blas_threads(1); // it is for small host matrices, whose results then depend on no thread count
    return omp_get_max_threads();
}

/* A GPU for each rank, told in the log. Collective. */
static bool choose_devices(const struct run *run, const struct run_cfg *cfg, struct fault *fault)
{
    if (cfg->backend != RUN_BACKEND_CUDA || run->check_only) return true;
    int ranks = comm_size(run->comm);
    char **texts = check_calloc((size_t)ranks, sizeof *texts), *libraries = device_libraries();
    bool ok = device_choose(run->comm, (int)cfg->ranks_per_gpu, texts, fault);
    if (ok) log_info(run->log, "%s", libraries);
    for (int rank = 0; rank < ranks; rank++) {
        if (ok && rank < 16)
            log_info(run->log, "rank %d on %s", rank, texts[rank]);
        else if (ok)
            log_detail(run->log, "rank %d on %s", rank, texts[rank]);
        free(texts[rank]);
    }
    free(texts);
    free(libraries);
    return ok;
}

static void print_banner(const struct run *run, enum phase_id phase, int threads)
{
    const struct log *log = run->log;
    int cores = cores_allowed();
    log_info(log, "%s, commit %s, phase %s", version_program(), version_commit(), phase_name(phase));
    log_info(log, "%d rank%s on %s, %d on each machine; %d thread%s and %d core%s each", comm_size(run->comm),
             comm_size(run->comm) == 1 ? "" : "s", run->hosts, comm_node_size(run->comm), threads,
             threads == 1 ? "" : "s", cores, cores == 1 ? "" : "s");
    if (threads > cores)
        log_warning(log,
                    "%d threads share the %d cores that this rank may use (mpirun --bind-to none lifts that)",
                    threads, cores);
    log_detail(log, "effective deck:\n%s", run->deck);
}

// ---- the phase

/* One line a phase. */
static bool run_phase(struct run *run, enum phase_id phase, const union phase_cfg *cfg, struct fault *fault)
{
    switch (phase) {
    case PHASE_PREPARE:
        return phase_prepare(run, &cfg->prepare, fault);
    case PHASE_IMPORT:
        return phase_import(run, &cfg->import, fault);
    case PHASE_PRETRAIN:
        return phase_pretrain(run, &cfg->pretrain, fault);
    case PHASE_PRUNE:
        return phase_prune(run, &cfg->prune, fault);
    case PHASE_ASSIGN:
        return phase_assign(run, &cfg->assign, fault);
    case PHASE_FINETUNE:
        return phase_finetune(run, &cfg->finetune, fault);
    case PHASE_SAMPLE:
        return phase_sample(run, &cfg->sample, fault);
    case PHASE_EVALUATE:
        return phase_evaluate(run, &cfg->evaluate, fault);
    case PHASE_EXPORT:
        return phase_export(run, &cfg->export, fault);
    case PHASE_BENCH:
        return phase_bench(run, &cfg->bench, fault);
    case PHASE_VERIFY:
        return phase_verify(run, &cfg->verify, fault);
    default:
        return fault_raise(fault, EXIT_CODE_DECK, "phase %s is not part of this build", phase_name(phase));
    }
}

/* The table, and a JSON copy in the folder, of a phase that came to its end or to a checkpoint. */
static void report_timers(const struct run *run, enum phase_id phase, const char *folder, struct fault *fault)
{
    if (fault->code != EXIT_CODE_OK && fault->code != EXIT_CODE_STOPPED) return;
    timers_stop_all(run->timers);
    int count;
    struct timer_summary *summary = timer_summarise(run->comm, run->timers, &count);
    timer_report(run->log, summary, count);
    if (folder && comm_rank(run->comm) == 0) {
        char *path = check_format("%s/timers_%s.json", folder, phase_name(phase));
        struct fault unwritten = {0};
        if (!timer_json_write(path, summary, count, &unwritten)) *fault = unwritten;
        free(path);
    }
    comm_agree(run->comm, fault);
    free(summary);
}

/* Runs the phase of an effective deck. */
static void run_deck(struct comm *comm, const char *text, bool check_only, struct fault *fault)
{
    union phase_cfg cfg;
    enum phase_id phase = fill_config(text, &cfg);
    int rank = comm_rank(comm);
    struct log log = {cfg.run.log, rank, cfg.run.log_all_ranks, stdout, stderr};
    struct timers *timers = check_calloc(1, sizeof *timers);
    struct stop stop;
    char time_text[32], *hosts = comm_hosts(comm);
    time_t now = time(NULL);
    struct tm utc;
    strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    struct run run = {comm, &log, timers, &stop, text, hosts, time_text, check_only};

    if (!phase_stops(phase)) stop_release_signals();
    stop_init(&stop, cfg.run.wall_clock_limit, rank == 0 && phase_stops(phase) ? cfg.run.folder : NULL);
    print_banner(&run, phase, set_threads(comm, &cfg.run));
    const char *folder = phase_writes(phase) && !check_only ? cfg.run.folder : NULL;
    if (choose_devices(&run, &cfg.run, fault) && rank == 0 && folder) folder_create(folder, fault);
    if (comm_agree(comm, fault)) {
        timer_start(timers, phase_name(phase));
        run_phase(&run, phase, &cfg, fault);
        comm_conclude(comm, fault);
        report_timers(&run, phase, folder, fault);
    }
    if (fault->code == EXIT_CODE_STOPPED) stop_remove_file(&stop);

    stop_clear(&stop);
    free(hosts);
    free(timers);
    keys_free(phase, &cfg);
}

static int print_fault(const struct fault *fault)
{
    if (fault->code != EXIT_CODE_OK)
        fprintf(stderr, "aptp: %s%s\n",
                fault->code == EXIT_CODE_STOPPED ? "stopped: " : "error: ", fault->text);
    return fault->code;
}

int main(int argc, char **argv)
{
    stop_catch_signals();
    struct fault fault = {0};
    struct arguments arguments = {0};
    bool understood = parse_arguments(&arguments, argc, argv, &fault);
    if (understood && (arguments.help || arguments.version)) {
        if (arguments.version)
            print_version();
        else
            print_help(arguments.positional, &fault);
        free(arguments.set);
        return print_fault(&fault);
    }

    struct comm *comm = comm_start(&argc, &argv);
    char *text = NULL;
    if (understood && comm_rank(comm) == 0) read_deck(&arguments, &text, &fault);
    if (comm_agree(comm, &fault)) {
        share_text(comm, &text);
        run_deck(comm, text, arguments.check, &fault);
    }
    if (comm_rank(comm) == 0) print_fault(&fault);
    free(text);
    free(arguments.set);
    comm_stop(comm);
    return fault.code;
}
