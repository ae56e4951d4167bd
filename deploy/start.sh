#!/bin/sh
# Starts a Ray node: `start.sh head` or `start.sh worker`; further arguments go to `ray start`.
set -eu
role=$1
shift
common="--block --disable-usage-stats --metrics-export-port=8080 --object-store-memory=${REMIX_OBJECT_STORE:-268435456}"
if [ "$role" = head ]; then
  if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH.new")
    mv "$RAY_AUTH_TOKEN_PATH.new" "$RAY_AUTH_TOKEN_PATH"
  fi
  # shellcheck disable=SC2086
  exec ray start --head --port=6379 --num-cpus="${REMIX_CPUS:-0}" --dashboard-host=0.0.0.0 --dashboard-port=8265 $common "$@"
fi
# shellcheck disable=SC2086
exec ray start --address="${REMIX_HEAD:-head:6379}" --num-cpus="${REMIX_CPUS:-1}" $common "$@"
