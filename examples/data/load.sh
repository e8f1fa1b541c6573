#!/usr/bin/env bash
# Pushes the records of tzdata.zi into the Redis list {tz}:queue, as "<line number> <line>", comments left out.
# One RPUSH carries them all, so either every record is in the list or none. Run twice, it pushes them twice.
#
#     examples/data/load.sh                          # redis-server on 127.0.0.1:6379
#     examples/data/load.sh -u redis://HOST:PORT     # any options of redis-cli
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

command -v redis-cli >/dev/null || { echo "load.sh needs redis-cli (Debian: apt install redis-tools)" >&2; exit 1; }

# In the C locale awk's length() counts bytes, which is what the Redis protocol wants.
LC_ALL=C awk '
  function bulk(text) { return "$" length(text) "\r\n" text "\r\n" }
  !/^#/ { records = records bulk(NR " " $0); n++ }
  END { printf "*%d\r\n%s%s%s", n + 2, bulk("RPUSH"), bulk("{tz}:queue"), records }
' tzdata.zi | redis-cli "$@" --pipe
