#!/usr/bin/env bash
# What the stand-ins are made of, into $CACHE: a Debian of the release that our image's base has, with its Python, another
# with the balancer, and the locked wheels for that Python. Mirrors and indexes are those that apt and pip here are told.
set -euo pipefail
release=trixie
python=3.13
mkdir -p "$CACHE"

mirror() {
  local mine
  mine=$(. /etc/os-release && echo "$VERSION_CODENAME")
  apt-get indextargets --format '$(CREATED_BY)|$(CODENAME)|$(REPO_URI)' | sed -n "s/^Packages|$mine|//p" | head -1
}

root() { # NAME PACKAGES: its own mount namespace, since debootstrap mounts things into the new root
  [ -f "$CACHE/$1.tar" ] && return
  rm -rf --one-file-system "$CACHE/$1.new"
  unshare --mount debootstrap --variant=minbase --include="$2" "$release" "$CACHE/$1.new" "$(mirror)" >"$CACHE/$1.log" 2>&1 ||
    { tail -20 "$CACHE/$1.log"; exit 1; }
  rm -rf "$CACHE/$1.new"/var/cache/apt/archives/*.deb "$CACHE/$1.new"/var/lib/apt/lists/*
  : >"$CACHE/$1.new/etc/apt/sources.list"
  tar -C "$CACHE/$1.new" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --numeric-owner -cf "$CACHE/$1.tar.new" .
  mv "$CACHE/$1.tar.new" "$CACHE/$1.tar"
  rm -rf --one-file-system "$CACHE/$1.new"
}

wheels() {
  local locks=(requirements/{uv,build,runtime,sbom}.txt) key
  key=$(cat "${locks[@]}" | sha256sum | cut -c1-16)
  [ -d "$CACHE/wheels-$key" ] || {
    rm -rf "$CACHE/wheels.new"
    # pip judges markers by the Python that runs it, so they are judged first
    ${PYTHON:-.venv/bin/python} deploy/ci/judge_markers.py "$python" "${locks[@]}" >"$CACHE/wheels.txt"
    ${PYTHON:-.venv/bin/python} -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --python-version "$python" \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
      --platform manylinux2014_x86_64 --dest "$CACHE/wheels.new" -r "$CACHE/wheels.txt"
    mv "$CACHE/wheels.new" "$CACHE/wheels-$key"
  }
  ln -sfn "wheels-$key" "$CACHE/wheels"
}

root python python3,python3-venv,python3-pip,ca-certificates
root haproxy haproxy,busybox-static
wheels
