#!/bin/sh
# Submits the chain prune -> assign -> finetune (an array, one expert a task) -> sample -> evaluate to Slurm, each phase when the one
# before it has succeeded; if one fails, those behind it are cancelled. From the repository's root:
#
#     sh jobs/chain.sh [-k EXPERTS] DECKS [--set key=value ...]
#
# DECKS: folder with prune.cfg, assign.cfg, finetune.cfg, sample.cfg and evaluate.cfg. The settings go to every phase, so they are those
# that all phases have: sh jobs/chain.sh input --set run.folder=/scratch/run1
# EXPERTS: as router.experts of prune.cfg says (1 for all values of prune.method but aptp), unless given.
# Nodes, ranks and time are those of jobs/phase.slurm; sbatch's own variables (SBATCH_ACCOUNT, SBATCH_PARTITION, ...) hold for every job.
set -e
usage() {
    echo "chain: $1" >&2
    echo "usage: sh jobs/chain.sh [-k EXPERTS] DECKS [--set key=value ...]" >&2
    exit 2
}
experts=
if [ "$1" = -k ]; then
    [ $# -ge 2 ] || usage "-k needs a number"
    experts=$2
    shift 2
fi
[ $# -ge 1 ] || usage "no folder of decks"
decks=$1
shift
for phase in prune assign finetune sample evaluate; do
    [ -f "$decks/$phase.cfg" ] || usage "$decks/$phase.cfg is missing"
done
# key = value; in prune.cfg itself (not in a deck that it is based on)
value_of() {
    sed -n "s/^[^/#]*$1[[:space:]]*=[[:space:]]*\"*\([a-z0-9][a-z0-9]*\)\"*[[:space:]]*;.*/\1/p" "$decks/prune.cfg"
}
if [ -z "$experts" ]; then
    case $(value_of method) in
    '' | aptp) experts=$(value_of experts) ;;
    *) experts=1 ;; # the other methods have one, whatever the deck says
    esac
fi
case $experts in
'') usage "$decks/prune.cfg does not say how many experts; say -k EXPERTS" ;;
*[!0-9]* | 0) usage "'$experts' experts; a number from 1 on is allowed" ;;
esac

before=
submit() { # submit PHASE [OPTION OF sbatch ...] SCRIPT DECK [ARGUMENT ...]
    phase=$1
    shift
    # The number of the job, without the cluster's name that may follow it.
    before=$(sbatch --parsable --job-name="aptp-$phase" --kill-on-invalid-dep=yes ${before:+--dependency=afterok:$before} "$@")
    before=${before%%;*}
    echo "$phase: job $before"
}
submit prune jobs/phase.slurm "$decks/prune.cfg" "$@"
submit assign jobs/phase.slurm "$decks/assign.cfg" "$@"
submit finetune --array="0-$((experts - 1))" jobs/phase.slurm "$decks/finetune.cfg" "$@"
submit sample jobs/phase.slurm "$decks/sample.cfg" "$@"
submit evaluate jobs/phase.slurm "$decks/evaluate.cfg" "$@"
