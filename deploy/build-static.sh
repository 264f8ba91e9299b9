#!/usr/bin/env bash
# Builds a static chillgate into dist/, for the Dockerfile and for machines with another libc.
#
# The glibc target linked statically, so that no second toolchain is needed. chillgate looks names
# up by itself (no getaddrinfo), which is what static glibc binaries usually trip over.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
# Flags given with a target do not reach build scripts and macros, which cannot be static.
# A static binary cannot look the C library's getrandom up while it runs and would read /dev/urandom,
# which an empty root may not have: so it is linked.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"" \
  cargo build --release --locked --package chillgate --target "$target"

mkdir -p dist
echo "*" >dist/.gitignore # a build product, like target/
install -m 0755 "${CARGO_TARGET_DIR:-target}/$target/release/chillgate" dist/chillgate
# The release profile has no symbols in it already; what remains are sections nobody loads.
strip --strip-all dist/chillgate 2>/dev/null || true
if ldd dist/chillgate 2>&1 | grep -q '=>'; then
  echo "dist/chillgate is not static:" >&2
  ldd dist/chillgate >&2
  exit 1
fi
ls -l dist/chillgate
