# A template is small, is read before the model, and its errors name its file.
#: exit 2
#: stderr the chat template /dev/zero is larger than 128 KiB
#: stderr loop.jinja: the chat template does not parse, line
#: stderr goes beyond the limit on
#: seconds 20
#: mebibytes 2000
ask() {
    apb generate --document "$DOCUMENT" --query Why? --max-tokens 2 "$@"
}
ask --model "$MODEL" --chat-template /dev/zero && exit 9
printf '{{ messages[0].content }}\n{%% for' >loop.jinja
ask --model "$MODEL" --chat-template loop.jinja && exit 9
ask --model "$MODEL" --chat-template loop.jinja --json | grep -q '"path":"loop.jinja"' || exit 9
printf '{%% for a in range(9999) %%}{%% for b in range(9999) %%}{%% endfor %%}{%% endfor %%}' >loop.jinja
ask --model "$MODEL" --chat-template loop.jinja
