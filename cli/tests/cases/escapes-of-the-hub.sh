#: exit 3
. "$TOOLS/hub.sh"
start_hub "list=$(printf '\033[31m\302\233evil')"
apb fetch org/name --source hub
apb fetch org/name --source hub --json
