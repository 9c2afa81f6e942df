# A task, claimed, reported on and completed, in five commands. NOVA_URL and NOVA_TOKEN (an agent's key) stand in the environment.
nova() { curl -sf -X POST -H "Authorization: Bearer $NOVA_TOKEN" -H 'Content-Type: application/json' "$NOVA_URL/api/v1/$1" -d "$2"; }
task=$(nova tasks/claim/ '{"wait": 5}')
read -r id fence <<< "$(python3 -c 'import json, sys; t = json.load(sys.stdin)["tasks"][0]; print(t["task_id"], t["fence"])' <<< "$task")"
nova "tasks/$id/progress/" "{\"fence\": $fence, \"progress_percentage\": 50, \"update\": \"halfway\"}"
nova "tasks/$id/complete/" "{\"fence\": $fence, \"results\": \"done by hand\", \"evidence\": [\"seen by me\"]}"
