#!/bin/sh
# Take out of an environment what serving never reads, and write down what is left.
#
#   trim.sh /opt/glimpse
#
# Half a gigabyte goes, most of it TensorFlow's: headers for those who compile operations of their own, the symbols that
# only debuggers read, and libclang, which its wheel asks for and its code never imports. The list of the rest is a
# CycloneDX SBOM, made last so that it is true.
set -eu
environment=$1
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

/build/bin/pip --python "$environment" uninstall --quiet --yes libclang

rm -rf "$packages/tensorflow/include" "$packages/openvino/include"
find "$packages/tensorflow" -name '*.so*' -type f -exec strip --strip-unneeded {} +
# The command line of every package; the service needs the interpreter alone.
find "$environment/bin" -type f -not -name 'activate*' -not -name 'python*' -delete
# `glimpse` in a shell of the container, for a look from inside.
ln -s /app/glimpse/client/cli.py "$environment/bin/glimpse"

mkdir -p "$environment/share/sbom"
/sbom/bin/cyclonedx-py environment --output-reproducible --output-format JSON --pyproject /src/pyproject.toml \
  --output-file "$environment/share/sbom/python.cdx.json" "$environment/bin/python"
