"""Examples of what the service answers, of a run of `remix demo`, shortened."""

from typing import Any

_Json = dict[str, Any]
_HASH = "e36eacbf6e1eb0b5df09b1e473e19f5de16afe7761a942d77762a3e0ab2b1a7c"
_PLAN_HASH = "4ba8efcd4ed3f18eed82821a482a76b5dabe2147ee2c8e8eb1e8eb30f78fd03e"
_AUDIO: _Json = {"kind": "audio", "shape": [1, 64, 63], "dtype": "float16", "num_rows": 480}
_VIDEO: _Json = {"kind": "video", "shape": [4, 3, 48, 48], "dtype": "uint8", "num_rows": 480}
_FEATURES: _Json = {
    "name": "demo",
    "status": "finished",
    "fingerprint": _HASH,
    "num_rows": 480,
    "num_rejected": 1,
    "num_classes": 2,
}
_FEATURES |= {
    "splits": {"train": 336, "validation": 72, "test": 72},
    "modalities": {"audio": _AUDIO, "video": _VIDEO},
}
_RUN: _Json = {
    "name": "demo-remix-seed0",
    "status": "finished",
    "error": None,
    "updated": "2026-11-23T15:39:05.649079Z",
}
_RUN |= {
    "features": {"name": "demo", "fingerprint": _HASH},
    "modalities": ["audio", "video"],
    "num_epochs": 12,
    "planned_epochs": 12,
    "warmup_epochs": 4,
}
_RUN |= {
    "best": {"epoch": 3, "validation_accuracy": 0.75},
    "test_accuracy": {"fused": 0.75, "audio": 0.7639, "video": 0.2778},
}
_PLAN: _Json = {
    "epoch": 6,
    "fingerprint": _PLAN_HASH,
    "policy": "kl",
    "num_steps": 3,
    "num_rows": 84,
    "shares": {"audio": 0.6548, "video": 0.3452},
}
_PLAN |= {"churn": 0.2679, "has_scores": True, "written": "2026-11-23T15:36:26.737853Z"}
_KL: _Json = {"edges": [0.0, 0.5, 1.0], "counts": [56, 28], "assigned": [44, 11], "mean": 0.4127}
_DIFFICULTY: _Json = {
    "edges": [0.0, 0.5, 1.0],
    "counts": [28, 56],
    "assigned": [11, 44],
    "mean": 0.5873,
}
_HISTOGRAMS: _Json = {"audio": {"num_missing": 0, "kl": _KL, "difficulty": _DIFFICULTY}}
_EPOCH: _Json = {
    "epoch": 6,
    "policy": "kl",
    "num_steps": 12,
    "num_rows": 336,
    "learning_rate": 0.001,
    "train_loss": 1.8162,
    "train_accuracy": 0.7887,
    "validation_loss": 1.2361,
    "validation_accuracy": 0.5972,
    "modalities": {
        "audio": {"share": 0.6042, "train_accuracy": 0.7537, "validation_accuracy": 0.6806},
        "video": {"share": 0.3958, "train_accuracy": 0.8421, "validation_accuracy": 0.1944},
    },
    "churn": 0.2679,
    "rho": 2.2719,
    "seconds": {
        "score": 0.9,
        "plan": 0.02,
        "load": 0.04,
        "step": 2.1,
        "validate": 0.2,
        "epoch": 3.3,
    },
    "samples_per_second": 157.0,
}
_STATS: _Json = {
    "num_steps": 3,
    "num_rows": 84,
    "modalities": {
        "audio": {
            "num_steps": 2,
            "num_rows": 55,
            "share": 0.6548,
            "read_amplification": 16.4,
            "class_counts": [23, 32],
        },
        "video": {
            "num_steps": 1,
            "num_rows": 29,
            "share": 0.3452,
            "read_amplification": 19.2,
            "class_counts": [17, 12],
        },
    },
    "batch_sizes": {"min": 27, "max": 29, "mean": 28.0, "counts": {"27": 1, "28": 1, "29": 1}},
    "transitions": {"audio": {"audio": 1, "video": 1}, "video": {"audio": 0, "video": 0}},
    "num_switches": 1,
    "batch_rows": 64,
    "read_amplification": 17.5,
    "order": {"edges": [0, 1, 2, 3], "num_steps": {"audio": [1, 1, 0], "video": [0, 0, 1]}},
    "churn": 0.2679,
    "histograms": _HISTOGRAMS,
}
_SAMPLE: _Json = {
    "sample_id": "sample-000018",
    "row": 18,
    "label": 1,
    "class_name": "class-01",
    "split": "train",
    "shard": "shard-000000.tar",
}
_SAMPLE |= {"has": {"audio": True, "video": True}}
_SCORED: _Json = {
    "audio": {"kl": 0.31, "difficulty": 0.69, "p_label": 0.52, "predicted": 1},
    "video": {"kl": 0.82, "difficulty": 0.18, "p_label": 0.11, "predicted": 0},
}
_STORY = [
    {"epoch": 3, "step": 1, "assigned": "all", "modalities": None},
    {"epoch": 6, "step": 0, "assigned": "audio", "modalities": _SCORED},
]
_SPREAD: _Json = {"mean": 0.75, "sd": 0.02, "each": [0.73, 0.75, 0.77]}
_COMPARISON: _Json = {
    "name": "demo",
    "status": "finished",
    "methods": ["joint", "remix"],
    "seeds": [0, 1, 2],
}
_METHOD: _Json = {
    "method": "joint",
    "accuracy": {"fused": _SPREAD},
    "num_steps": 132.0,
    "time_ratio": 1.0,
}
_METHOD |= {
    "zero_mask_accuracy": {},
    "cost": {"expansion": 1.0, "epoch_seconds": 2.9, "flops": 1.2e12, "flops_ratio": 1.0},
}
_TEST: _Json = {
    "pair": "remix - joint",
    "difference": -0.05,
    "sd": 0.04,
    "paired_t_p": 0.187,
    "mcnemar_p": [0.109, 0.18, 1.0],
}

EXAMPLES: dict[str, Any] = {
    "FeatureSummary": _FEATURES,
    "FeatureDetail": {
        **_FEATURES,
        "classes": ["class-00", "class-01"],
        "reasons": {"truncated": 1},
        "num_parts": 4,
        "parents": {"shards": _HASH},
    },
    "SampleSummary": {
        "row": 18,
        "sample_id": "sample-000018",
        "label": 1,
        "split": "train",
        "shard": "shard-000000.tar",
        "has": {"audio": True, "video": True},
    },
    "Rejected": {
        "shard": "shard-000002.tar",
        "sample_id": "sample-000213",
        "stage": "video",
        "reason": "truncated",
        "error": "the member ends early",
    },
    "RunSummary": _RUN,
    "RunDetail": {
        **_RUN,
        "config": {"seed": 0, "preset": "small"},
        "digest": _HASH,
        "code_version": "0.1.0",
        "plans": [3, 6],
        "scores": [6],
    },
    "EpochRow": _EPOCH,
    "PlanSummary": _PLAN,
    "PlanDetail": {
        **_PLAN,
        "modalities": ["audio", "video"],
        "seed": 0,
        "batch_size": 32,
        "order": "sequential",
        "parents": {"scores": _HASH},
        "bytes": 6066,
    },
    "PlanStats": _STATS,
    "PlanStep": {"step": 0, "modality": "audio", "rows": [125, 77, 123, 179]},
    "ScoreHistograms": {"epoch": 6, "num_rows": 84, "num_classes": 2, "modalities": _HISTOGRAMS},
    "Sample": {**_SAMPLE, "epochs": _STORY},
    "ComparisonSummary": _COMPARISON,
    "ComparisonDetail": {
        "name": "demo",
        "seeds": [0, 1, 2],
        "methods": [_METHOD],
        "tests": [_TEST],
    },
    "CurvePoint": {
        "method": "joint",
        "seed": 0,
        "epoch": 6,
        "validation_accuracy": 0.6,
        "modalities": _EPOCH["modalities"],
        "churn": None,
    },
    "Problem": {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no run 'demo'; GET /v1/runs lists them",
        "instance": "/v1/runs/demo",
        "request_id": "5f2b6c0e9d3a4b71",
    },
    "Ready": {"status": "ok"},
}
"""By the name of the schema."""
