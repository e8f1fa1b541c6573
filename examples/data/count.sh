#!/usr/bin/env bash
# Counts the records of tzdata.zi without any worker: "name<TAB>count", sorted. It is what {tz}:counts must hold in
# the end. To compare:
#
#     diff <(examples/data/count.sh) <(redis-cli HGETALL '{tz}:counts' | paste - - | LC_ALL=C sort)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export LC_ALL=C

records() { grep -v '^#' tzdata.zi; }
tally() { sort | uniq -c | awk -v name="$1" '{ count = $1; $1 = ""; print name $0 "\t" count }'; }
area() { sed -E 's,^([^/]*)/.*,\1,; t; s,.*,(none),'; }

{
  printf 'records\t%d\n' "$(records | wc -l)"
  printf 'rules\t%d\n' "$(records | grep -c '^R ')"
  printf 'zones\t%d\n' "$(records | grep -c '^Z ')"
  printf 'links\t%d\n' "$(records | grep -c '^L ')"
  printf 'continuations\t%d\n' "$(records | grep -c -v '^[RZL] ')"
  records | grep '^R ' | cut -d' ' -f2 | tally rules
  records | grep '^Z ' | cut -d' ' -f2 | area | tally zones
  records | grep '^L ' | cut -d' ' -f3 | area | tally links
} | sort
