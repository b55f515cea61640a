#!/usr/bin/env bash
# Trains the reader family that ships in btr_jax/assets/factbook_tiny, from
# nothing, by the package's own trainer, and packs it. Needs btr_jax[train];
# about an hour on two CPU cores. A step that was stopped resumes. Put in order
# from the commands that were run; not yet run as a whole (docs/results).
#
#   tools/train_factbook_tiny.sh runs/factbook_tiny
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-runs/factbook_tiny}

train() {
  python -m btr_jax.train --gin_file=gin_configs/btr_tiny.gin \
    --gin.QUESTION_LENGTH=28 --gin.ANSWER_LENGTH=16 --gin.LOG_PERIOD=50 "$@"
}
# Settings that the stages share: eight passages, as the reader is used.
stage() {
  train --gin.MODEL_DIR="'$runs/stages'" --gin.PASSAGE_LENGTH=112 \
    --gin.NUM_PASSAGES=8 --gin.WARMUP_STEPS=20 --gin.SAVE_PERIOD=150 \
    --gin.EVAL_BATCHES=16 "$@"
}

# Copying exercises on windows of one passage (tasks/warmup.py).
train --gin.STAGE=1 --gin.MODEL_DIR="'$runs/warmup'" \
  --gin.TASK="'factbook_warmup'" --gin.NUM_PASSAGES=1 \
  --gin.PASSAGE_LENGTH=48 --gin.BATCH_SIZE=32 --gin.TRAIN_STEPS=1600 \
  --gin.LEARNING_RATE=1.5e-3 --gin.WARMUP_STEPS=100 \
  --gin.EVAL_PERIOD=1600 --gin.EVAL_BATCHES=2 --gin.SAVE_PERIOD=800

# Stage 1: whole passages, two, four, then eight at a time.
train --gin.STAGE=1 --gin.MODEL_DIR="'$runs/two'" \
  --gin.INITIAL_CHECKPOINT="'$runs/warmup/stage1'" --gin.NUM_PASSAGES=2 \
  --gin.PASSAGE_LENGTH=112 --gin.BATCH_SIZE=16 --gin.TRAIN_STEPS=600 \
  --gin.LEARNING_RATE=1e-3 --gin.WARMUP_STEPS=50 \
  --gin.EVAL_PERIOD=300 --gin.SAVE_PERIOD=300
train --gin.STAGE=1 --gin.MODEL_DIR="'$runs/four'" \
  --gin.INITIAL_CHECKPOINT="'$runs/two/stage1'" --gin.NUM_PASSAGES=4 \
  --gin.PASSAGE_LENGTH=112 --gin.BATCH_SIZE=16 --gin.TRAIN_STEPS=450 \
  --gin.LEARNING_RATE=5e-4 --gin.WARMUP_STEPS=30 \
  --gin.EVAL_PERIOD=150 --gin.SAVE_PERIOD=150
train --gin.STAGE=1 --gin.MODEL_DIR="'$runs/eight'" \
  --gin.INITIAL_CHECKPOINT="'$runs/four/stage1'" --gin.NUM_PASSAGES=8 \
  --gin.PASSAGE_LENGTH=112 --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=250 \
  --gin.LEARNING_RATE=3e-4 --gin.WARMUP_STEPS=20 \
  --gin.EVAL_PERIOD=100 --gin.SAVE_PERIOD=100
stage --gin.STAGE=1 --gin.INITIAL_CHECKPOINT="'$runs/eight/stage1'" \
  --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=380 --gin.LEARNING_RATE=5e-4 \
  --gin.EVAL_PERIOD=380

# Stage 2: decomposed after five layers, taught by stage 1; then stage 3: bits,
# with either codec. These stages got minutes, far too few: docs/results.
short() {
  train --gin.MODEL_DIR="'$runs/stages'" --gin.SPLIT_LAYER=5 \
    --gin.PASSAGE_LENGTH=112 --gin.WARMUP_STEPS=15 --gin.EVAL_PERIOD=0 "$@"
}
short --gin.STAGE=2 --gin.NUM_PASSAGES=2 --gin.BATCH_SIZE=16 \
  --gin.TRAIN_STEPS=200 --gin.SAVE_PERIOD=200 --gin.LEARNING_RATE=1e-3
short --gin.STAGE=3 --gin.CODEC="'residual'" --gin.CODEC_BITS=64 \
  --gin.NUM_PASSAGES=4 --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=140 \
  --gin.SAVE_PERIOD=140 --gin.LEARNING_RATE=5e-4
short --gin.STAGE=3 --gin.CODEC="'calibrated'" --gin.NUM_PASSAGES=4 \
  --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=110 --gin.SAVE_PERIOD=110 \
  --gin.LEARNING_RATE=5e-4

btr pack-family --stages "$runs/stages" --output "$runs/family" \
  --num-passages 8
