"""Writes tests/checkpoints: tiny random models of `transformers` with their logits, the oracle.

Run: python tests/models/make_checkpoints.py        (needs torch and transformers; the tests do not)
"""

import pathlib

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).with_name("checkpoints")
COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LONG = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "llama3": transformers.LlamaConfig(**COMMON, rope_parameters=LONG),
    "qwen2": transformers.Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**COMMON, head_dim=8),
}


def main() -> None:
    """Writes one folder per family: config, shards, and expected.npz."""
    torch.manual_seed(0)
    for name, config in CONFIGS.items():
        model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3) if p.ndim > 1 else torch.nn.init.uniform_(p, 0.5, 1.5)
        folder = FOLDER / name
        model.save_pretrained(folder, max_shard_size="8KB")
        (folder / "generation_config.json").unlink()
        tokens = torch.randint(0, 40, (2, 30))
        row = tokens[:1]
        with torch.no_grad():
            logits = model(tokens).logits.numpy()
            for _ in range(12):  # greedy, and no end of text
                row = torch.cat([row, model(row).logits[:, -1:].argmax(-1)], dim=1)
        greedy = row[0, 30:].numpy()
        np.savez_compressed(
            folder / "expected.npz", tokens=tokens.numpy(), logits=logits, greedy=greedy
        )


if __name__ == "__main__":
    main()
