#!/usr/bin/env bash
# Trains the reader family that ships in btr_jax/assets/factbook_tiny, from
# nothing, by the package's own trainer, and packs it. Needs btr_jax[train];
# about six hours on two CPU cores. A step that was stopped resumes. Put in
# order from the commands that were run; not yet run as a whole (docs/results).
#
#   tools/train_factbook_tiny.sh runs/factbook_tiny
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
runs=${1:-runs/factbook_tiny}

depth=10 split=8  # Of the encoder, until the last steps.
train() {
  python -m btr_jax.train --gin_file=gin_configs/btr_tiny.gin \
    --gin.config.ReaderConfig.num_encoder_layers="$depth" \
    --gin.SPLIT_LAYER="$split" \
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

# Stage 2, decomposed after eight of ten layers, begins at the warm-up too,
# before a joint reader has settled: matching question and passage has to move
# above the split. First the exercises, taught by stage 1; then without a
# teacher, whose run costs as much as the student's.
split() {
  train --gin.STAGE=2 --gin.WARMUP_STEPS=20 --gin.EVAL_BATCHES=12 "$@"
}
mkdir -p "$runs/split_windows"
ln -sfn "$(realpath "$runs/stages/stage1")" "$runs/split_windows/stage1"
split --gin.MODEL_DIR="'$runs/split_windows'" \
  --gin.INITIAL_CHECKPOINT="'$runs/warmup/stage1'" \
  --gin.TASK="'factbook_warmup'" --gin.NUM_PASSAGES=1 \
  --gin.PASSAGE_LENGTH=48 --gin.BATCH_SIZE=32 --gin.TRAIN_STEPS=400 \
  --gin.LEARNING_RATE=1e-3 --gin.SCHEDULE="'constant'" \
  --gin.EVAL_PERIOD=0 --gin.SAVE_PERIOD=400
whole() {
  split --gin.DISTILL_TOKENS="'none'" --gin.EVAL_PERIOD=300 \
    --gin.SAVE_PERIOD=300 "$@"
}
whole --gin.MODEL_DIR="'$runs/split_two'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_windows/stage2'" \
  --gin.NUM_PASSAGES=2 --gin.PASSAGE_LENGTH=112 --gin.BATCH_SIZE=16 \
  --gin.TRAIN_STEPS=650 --gin.LEARNING_RATE=1e-3 --gin.SCHEDULE="'constant'"
whole --gin.MODEL_DIR="'$runs/split_one'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_two/stage2'" \
  --gin.NUM_PASSAGES=1 --gin.PASSAGE_LENGTH=112 --gin.BATCH_SIZE=32 \
  --gin.TRAIN_STEPS=1300 --gin.LEARNING_RATE=1.2e-3
# Other digits and other orders from here on (tasks/augmentation.py).
augmented() {
  whole --gin.TASK="'factbook_augmented'" --gin.QUESTION_LENGTH=24 \
    --gin.PASSAGE_LENGTH=100 "$@"
}
augmented --gin.MODEL_DIR="'$runs/split_two_augmented'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_one/stage2'" --gin.NUM_PASSAGES=2 \
  --gin.BATCH_SIZE=24 --gin.TRAIN_STEPS=900 --gin.LEARNING_RATE=7e-4
augmented --gin.MODEL_DIR="'$runs/split_four'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_two_augmented/stage2'" \
  --gin.NUM_PASSAGES=4 --gin.BATCH_SIZE=16 --gin.TRAIN_STEPS=900 \
  --gin.LEARNING_RATE=6e-4
augmented --gin.MODEL_DIR="'$runs/split_four_muon'" --gin.OPTIMIZER="'muon'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_four/stage2'" --gin.SEED=1 \
  --gin.NUM_PASSAGES=4 --gin.BATCH_SIZE=16 --gin.TRAIN_STEPS=1000 \
  --gin.LEARNING_RATE=1e-3
augmented --gin.MODEL_DIR="'$runs/split_eight'" --gin.OPTIMIZER="'muon'" \
  --gin.INITIAL_CHECKPOINT="'$runs/split_four_muon/stage2'" --gin.SEED=2 \
  --gin.NUM_PASSAGES=8 --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=700 \
  --gin.LEARNING_RATE=7e-4

# 500 more steps for the joint and for the decomposed reader of ten layers.
last() {
  train --gin.TASK="'factbook_augmented'" --gin.DISTILL_TOKENS="'none'" \
    --gin.OPTIMIZER="'muon'" --gin.NUM_PASSAGES=8 --gin.PASSAGE_LENGTH=112 \
    --gin.WARMUP_STEPS=20 "$@"
}
whole_reader() {
  last --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=500 --gin.LEARNING_RATE=6e-4 \
    --gin.EVAL_PERIOD=250 --gin.EVAL_BATCHES=20 --gin.SAVE_PERIOD=250 "$@"
}
whole_reader --gin.MODEL_DIR="'$runs/ten'" --gin.STAGE=1 --gin.SEED=3 \
  --gin.INITIAL_CHECKPOINT="'$runs/stages/stage1'"
whole_reader --gin.MODEL_DIR="'$runs/ten'" --gin.STAGE=2 --gin.SEED=3 \
  --gin.INITIAL_CHECKPOINT="'$runs/split_eight/stage2'"

# An eleventh layer, above the split, that adds nothing until it is trained.
for stage in 1 2; do
  [ -d "$runs/eleven/stage$stage" ] || btr grow-reader \
    "$runs/ten/stage$stage/reader" --upper 1 --output "$runs/eleven/stage$stage"
done
depth=11
# Layers below the split stay as they are: a step costs half.
above() {
  last --gin.TRAIN_LOWER=False --gin.BATCH_SIZE=16 --gin.LEARNING_RATE=1e-3 \
    --gin.EVAL_BATCHES=15 --gin.SAVE_PERIOD=250 "$@"
}
above --gin.MODEL_DIR="'$runs/above'" --gin.STAGE=2 --gin.SEED=5 \
  --gin.INITIAL_CHECKPOINT="'$runs/eleven/stage2'" \
  --gin.TRAIN_STEPS=300 --gin.EVAL_PERIOD=300
above --gin.MODEL_DIR="'$runs/above_longer'" --gin.STAGE=2 --gin.SEED=6 \
  --gin.INITIAL_CHECKPOINT="'$runs/above/stage2/reader'" \
  --gin.TRAIN_STEPS=1250 --gin.EVAL_PERIOD=625
# From codes: four bits of each of 32 directions, 16 bytes as the paper's.
codes() {
  above --gin.STAGE=3 --gin.CODEC="'residual'" --gin.CODEC_BITS=128 \
    --gin.CODEC_BITS_PER_DIM=4 --gin.CODEC_WINDOW=1 --gin.CODEC_SCALE_BITS=8 \
    "$@"
}
codes --gin.MODEL_DIR="'$runs/eleven_codes'" --gin.SEED=7 \
  --gin.INITIAL_CHECKPOINT="'$runs/above_longer/stage2/reader'" \
  --gin.TRAIN_STEPS=1500 --gin.EVAL_PERIOD=500
whole_reader --gin.MODEL_DIR="'$runs/eleven_joint'" --gin.STAGE=1 \
  --gin.SEED=8 --gin.INITIAL_CHECKPOINT="'$runs/eleven/stage1'"

# A twelfth, below the split, where depth costs a question nothing, and from
# here on other names of countries (names_share of tasks/augmentation.py; the
# runs above were made without).
grown() { # STAGE READER
  [ -d "$runs/twelve/stage$1" ] || btr grow-reader "$2" --lower 1 \
    --output "$runs/twelve/stage$1"
}
grown 1 "$runs/eleven_joint/stage1/reader"
grown 2 "$runs/eleven_codes/stage3_residual/reader"
depth=12 split=9
last --gin.MODEL_DIR="'$runs/last'" --gin.STAGE=1 --gin.SEED=23 \
  --gin.INITIAL_CHECKPOINT="'$runs/twelve/stage1'" --gin.BATCH_SIZE=12 \
  --gin.TRAIN_STEPS=400 --gin.LEARNING_RATE=7e-4 --gin.EVAL_PERIOD=400 \
  --gin.SAVE_PERIOD=200 --gin.EVAL_BATCHES=20
last --gin.MODEL_DIR="'$runs/twelve_four'" --gin.STAGE=2 --gin.SEED=21 \
  --gin.INITIAL_CHECKPOINT="'$runs/twelve/stage2'" --gin.NUM_PASSAGES=4 \
  --gin.BATCH_SIZE=24 --gin.TRAIN_STEPS=650 --gin.LEARNING_RATE=1e-3 \
  --gin.SCHEDULE="'constant'" --gin.EVAL_PERIOD=650 --gin.SAVE_PERIOD=325 \
  --gin.EVAL_BATCHES=10
last --gin.MODEL_DIR="'$runs/twelve_eight'" --gin.STAGE=2 --gin.SEED=22 \
  --gin.INITIAL_CHECKPOINT="'$runs/twelve_four/stage2/reader'" \
  --gin.BATCH_SIZE=12 --gin.TRAIN_STEPS=500 --gin.LEARNING_RATE=7e-4 \
  --gin.EVAL_PERIOD=500 --gin.SAVE_PERIOD=250 --gin.EVAL_BATCHES=20
codes --gin.MODEL_DIR="'$runs/last'" --gin.SEED=24 \
  --gin.INITIAL_CHECKPOINT="'$runs/twelve_eight/stage2/reader'" \
  --gin.TRAIN_STEPS=600 --gin.EVAL_PERIOD=600
whole_reader --gin.MODEL_DIR="'$runs/last'" --gin.STAGE=3 --gin.SEED=25 \
  --gin.CODEC="'calibrated'" --gin.TRAIN_STEPS=300 \
  --gin.INITIAL_CHECKPOINT="'$runs/twelve_eight/stage2/reader'"

btr pack-family --stages "$runs/last" --decomposed residual \
  --output "$runs/family"
