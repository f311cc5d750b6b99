"""The same steps with datatrove, in its own environment: prints the ids of the documents it keeps.

python _datatrove_pipeline.py LANGUAGE TOKENIZER_JSON FOLDER FILE...
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path


def main() -> None:
    """Runs the pipeline in this process's workers."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.typeshelper import Languages

    language, tokenizer, folder, *files = sys.argv[1:]
    code = Languages.english if language == "en" else Languages.mandarin_chinese
    source = str(Path(files[0]).parent)
    paths = Path(folder, "paths.txt")
    paths.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text("".join(f"{Path(file).name}\n" for file in files))
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)

    def run(name: str, *steps: object, tasks: int = 1) -> None:
        executor = LocalPipelineExecutor(
            pipeline=list(steps), tasks=tasks, workers=1, logging_dir=f"{folder}/logs/{name}", skip_completed=False
        )
        # A process each: once its Chinese word splitter is loaded, its pipelines cannot be copied any more.
        process = multiprocessing.get_context("fork").Process(target=executor.run)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"datatrove failed in {name}")

    # Its Chinese word splitter gives words, so the stop words are the usual ones of its FineWeb-2 recipe.
    stops = None if language == "en" else ["的", "一", "是", "不", "了", "在", "人", "有"]
    run(
        "filter",
        JsonlReader(source, paths_file=str(paths), text_key="text", id_key="id"),
        GopherQualityFilter(language=code, stop_words=stops, min_avg_word_length=3 if language == "en" else 1),
        GopherRepetitionFilter(language=code),
        JsonlWriter(f"{folder}/filtered", compression=None),
    )
    run(
        "signature",
        JsonlReader(f"{folder}/filtered"),
        MinhashDedupSignature(output_folder=f"{folder}/signatures", config=config, language=code),
    )
    run(
        "buckets",
        MinhashDedupBuckets(input_folder=f"{folder}/signatures", output_folder=f"{folder}/buckets", config=config),
        tasks=config.num_buckets,
    )
    run(
        "cluster",
        MinhashDedupCluster(input_folder=f"{folder}/buckets", output_folder=f"{folder}/remove", config=config),
    )
    run(
        "tokens",
        JsonlReader(f"{folder}/filtered"),
        MinhashDedupFilter(input_folder=f"{folder}/remove"),
        JsonlWriter(f"{folder}/kept", compression=None),
        DocumentTokenizer(
            f"{folder}/tokens", tokenizer_name_or_path=tokenizer, eos_token="<|end|>", shuffle_documents=False
        ),
    )
    files_kept = sorted(Path(folder, "kept").glob("*.jsonl"))
    kept = [json.loads(line)["id"] for file in files_kept for line in file.read_bytes().splitlines()]
    print(json.dumps(kept))


if __name__ == "__main__":
    main()
