#!/bin/sh
# Installs the package and torch into a virtual environment of their own: what the Dockerfile does, and docker/check.py.
#   TORCH=torch==2.13.0 [TORCH_INDEX=URL] [EXTRAS=serve] sh docker/install.sh SOURCE TARGET
# Without TORCH_INDEX torch comes from where all other packages do.
set -eu
source=$1 target=$2
python3 -m venv "$target"
install() { "$target/bin/python" -m pip install --no-cache-dir --disable-pip-version-check --quiet "$@"; }
install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
install "$TORCH" "$source[${EXTRAS:-serve}]"
