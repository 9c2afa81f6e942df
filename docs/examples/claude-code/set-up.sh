#!/bin/sh
# Claude Code as a Nova: makes the Nova and a folder with all that its agent needs.
#   sh docs/examples/claude-code/set-up.sh NOVA FOLDER URL      from NOVAWF's folder; then: cd FOLDER, and see its README.md
set -eu
manage="${PYTHON:-.venv/bin/python} manage.py"
nova=$1 folder=$2 url=$3

$manage nova show "$nova" --json >/dev/null 2>&1 || $manage nova create "$nova" --executor agent --reason "Claude Code"
$manage generate_templates "$nova" --out "$folder" --url "$url"
$manage hook_lint "$folder/.claude/settings.json"
echo "Now: cd $folder && set -a && . ./nova.env && set +a && claude"
