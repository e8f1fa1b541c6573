#!/usr/bin/env bash
# Checks every file below docker/ that a program of others reads: `just manifests`. Kubernetes' own schemas, the schema of
# Compose, Helm's Go library (it renders and lints the chart), and promtool.
#
# It fetches packages of Python into a temporary folder, and as root on Debian installs promtool (package prometheus) if it
# is missing. It needs no cluster and starts nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! command -v promtool >/dev/null; then
  if [[ ! -e /etc/debian_version || $EUID -ne 0 ]]; then
    echo "promtool is missing (Debian's package prometheus); as root on Debian it is installed" >&2
    exit 1
  fi
  apt-get -q update
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends prometheus
fi
python3 -m venv "$work/python"
"$work/python/bin/pip" -q install \
  kubernetes-validate==1.37.0 check-jsonschema==0.39.0 helm-python-sdk==0.2.2 PyYAML==6.0.4

echo "== Prometheus"
promtool check config prometheus.yml
promtool check rules alerts.yml
promtool test rules tests/alerts.test.yml

echo "== Compose"
# The schema knows no merge keys, and Compose resolves them before it looks.
"$work/python/bin/python" -c 'import sys, yaml, json; json.dump(yaml.safe_load(open("compose.yaml")), sys.stdout)' \
  >"$work/compose.json"
"$work/python/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$work/compose.json"

echo "== Kubernetes, Helm, Grafana"
"$work/python/bin/python" tests/manifests.py
