"""A run's `summary.json` with small numbers, for tests of what is read off it."""


def quality(tokens: float, psnr: float, perceptual: float, motion: float | None) -> dict:
    return {"tokens_per_clip": tokens, "psnr": psnr, "perceptual": perceptual, "motion": motion}


SUMMARY = {
    "total_seconds": 714.2,
    "peak_rss_mb": 3412.5,
    "stages": {
        "proxy tokenizer": {"seconds": 300.0},
        "router": {"seconds": 100.0},
        "generator": {"seconds": 200.0},
    },
    "reconstruction": {
        "uniform": [
            quality(16, 19.31, 0.4312, -0.05),
            quality(64, 22.87, 0.2894, 0.214),
            quality(256, 24.83, 0.2207, 0.526),
        ],
        "adaptive": quality(78.4, 23.41, 0.2641, 0.391) | {"lengths_by_block": [32.125, 18.4]},
        "further_preferences": [quality(41.0, 21.9, 0.322, 0.131) | {"preference": 0.8}],
        "final": quality(79.3, 23.97, 0.2502, 0.342),
        "final_longest": quality(256, 25.31, 0.2011, 0.604),
    },
    "generation": {
        "clips": 64,
        "tokens_per_clip": 80.2,
        "invalid_sequences": 0,
        "length_patterns": {"game 0": 5, "game 1": 1},
        "motion": {"generated": 0.0123, "real": 0.0246, "ratio": 0.5},
        "moving_share": {"generated": 0.0118, "real": 0.0472, "ratio": 0.25},
        "frechet": {
            "detector": "efficientnet-lite0",
            "value": 38.42,
            "real_vs_real": 9.871,
            "untrained": 141.3,
        },
    },
}
