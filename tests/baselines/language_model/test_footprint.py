"""LLaMA2-7B by its shapes alone."""

from btr_jax.baselines.language_model import config, footprint


def test_seven_billion_parameters():
  found = footprint.footprint(
    config.LLAMA2_7B, batch=4, prompt_length=1024, answer_length=20
  )
  # Meta's own count of LLaMA2-7B, and peft's of rank 8 on all seven matrices.
  assert found.num_parameters == 6_738_415_616
  assert found.parameter_bytes == 2 * 6_738_415_616
  assert found.num_lora_parameters == 19_988_480
  # 32 layers x keys and values x 4,096 numbers x 2 bytes = 512 KiB a token;
  # the last token of an answer is never fed.
  assert found.cache_bytes == 4 * (1024 + 19) * 512 * 1024
