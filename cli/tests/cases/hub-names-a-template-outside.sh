# Names in a list that lead elsewhere are passed over.
#: not panicked
. "$TOOLS/hub.sh"
start_hub 'file=additional_chat_templates/../../../stolen.jinja'
apb fetch org/name --source hub
[ -z "$(find . -name '*stolen*')" ]
