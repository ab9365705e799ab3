#!/usr/bin/env bash
# What the stand-ins are made of, into $CACHE: a Debian of the release that our image's base has, with its Python and the
# balancer; Prometheus; and the locked wheels for that Python. Mirrors and indexes are those that apt and pip here are told.
set -euo pipefail
release=trixie
python=3.13
mkdir -p "$CACHE"

mirror() {
  local mine
  mine=$(. /etc/os-release && echo "$VERSION_CODENAME")
  apt-get indextargets --format '$(CREATED_BY)|$(CODENAME)|$(REPO_URI)' | sed -n "s/^Packages|$mine|//p" | head -1
}

root() { # its own mount namespace, since debootstrap mounts things into the new root
  local new=$CACHE/root.new
  [ ! -f "$CACHE/root.tar" ] || return 0
  rm -rf --one-file-system "$new"
  unshare --mount debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,haproxy,busybox-static \
    "$release" "$new" "$(mirror)" >"$CACHE/root.log" 2>&1 || { tail -20 "$CACHE/root.log" && return 1; }
  rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*
  : >"$new/etc/apt/sources.list"
  tar -C "$new" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --numeric-owner -cf "$CACHE/root.tar.new" .
  mv "$CACHE/root.tar.new" "$CACHE/root.tar"
  rm -rf --one-file-system "$new"
}

prometheus() { # one program without libraries of its own: taken out of its package
  local new=$CACHE/prometheus.new
  [ ! -d "$CACHE/prometheus" ] || return 0
  rm -rf "$new" && mkdir -p "$new"
  (cd "$new" && apt-get download -q prometheus >log 2>&1 && dpkg-deb --extract ./*.deb unpacked) || { cat "$new/log" && return 1; }
  mkdir "$new/kept"
  mv "$new"/unpacked/usr/bin/{prometheus,promtool} "$new/kept/"
  mv "$new/kept" "$CACHE/prometheus"
  rm -rf "$new"
}

pip_download() { # FOLDER LOCKS...: each call is one environment, whose versions fit together
  local into=$1
  shift
  # pip judges markers by the Python that runs it, so they are judged first
  .venv/bin/python deploy/ci/judge_markers.py "$python" "$@" >"$into.txt"
  .venv/bin/python -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --python-version "$python" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --dest "$into" -r "$into.txt" 2>"$into.log" || { tail -20 "$into.log" && return 1; }
}

wheels() {
  local locks=(requirements/{uv,build,runtime}.txt) listing=requirements/sbom.txt new=$CACHE/wheels.new key
  key=$(cat "${locks[@]}" $listing | sha256sum | cut -c1-16)
  [ -d "$CACHE/wheels-$key" ] || {
    rm -rf "$new"
    pip_download "$new" "${locks[@]}"
    pip_download "$new" $listing
    mv "$new" "$CACHE/wheels-$key"
  }
  ln -sfn "wheels-$key" "$CACHE/wheels"
}

if [ $# -gt 0 ]; then # one part
  "$1"
  exit
fi
under_way=()
for part in root wheels prometheus; do
  # a mirror that fails once is asked once more
  { "$0" $part || { sleep 5 && "$0" $part; }; echo "containers: $part is here ($SECONDS s)"; } &
  under_way+=($!)
done
for each in "${under_way[@]}"; do wait "$each"; done
