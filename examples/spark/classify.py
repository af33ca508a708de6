"""Classify a folder of photos with Spark, on one machine or on a cluster, and write the results as Parquet."""

from __future__ import annotations

import argparse
from pathlib import Path

from photos import classify_with
from pyspark.sql import SparkSession

SUFFIXES = "*.{bmp,gif,jpeg,jpg,png,webp,BMP,GIF,JPEG,JPG,PNG,WEBP}"


def main() -> None:
    """Read the command line and run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="folder, or an address such as s3a://bucket/photos")
    parser.add_argument("out", help="folder for the Parquet files, or an address")
    parser.add_argument("--model", default="imagenet", help="what Classifier.load takes: a bundle, a published name")
    parser.add_argument("--top-k", type=int, default=5)
    arguments = parser.parse_args()

    spark = (
        SparkSession.builder.appName("Classify photos")
        # Rows that Spark hands to Python at once: its default of 10,000 photos would be gigabytes.
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 64)
        # Photos are small for Spark: with its default of 4 MiB, a task would be 32 of them, however small they are.
        .config("spark.sql.files.openCostInBytes", 64 * 1024)
        # A photo that vanishes or that nobody may read is left out, and fails no job.
        .config("spark.sql.files.ignoreMissingFiles", "true")
        .config("spark.sql.files.ignoreCorruptFiles", "true")
        .getOrCreate()
    )
    spark.sparkContext.addPyFile(str(Path(__file__).with_name("photos.py")))
    photos = (
        spark.read.format("binaryFile")
        .option("recursiveFileLookup", "true")
        .option("pathGlobFilter", SUFFIXES)
        .load(arguments.photos)
    )
    answer = classify_with(arguments.model, arguments.top_k)
    photos.select("path", answer("content").alias("answer")).select("path", "answer.*").write.parquet(arguments.out)
    spark.stop()


if __name__ == "__main__":
    main()
