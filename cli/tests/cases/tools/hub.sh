# Starts the lying hub with the given headers and points `apb` at it; another one in the place of an earlier one.
start_hub() {
    rm -f port
    python3 "$TOOLS/hub.py" port "$@" &
    while [ ! -f port ]; do sleep 0.05; done
    export HF_ENDPOINT="http://127.0.0.1:$(cat port)"
}

# Fetches from a hub that lies so, which is refused, and then from one that does not, which has to help.
fetch_helps_later() {
    start_hub "$@"
    apb fetch org/name --source hub && exit 9
    start_hub
    apb fetch org/name --source hub >/dev/null || exit 8
    apb generate --model org/name --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 >/dev/null
}

# Fetches from a hub that lies so; ends with the code of `apb`, or 9 where something lies outside its folders.
fetch_stays_inside() {
    start_hub "$@"
    mkdir inner
    HF_HOME=$PWD/inner/hub APB_CACHE=$PWD/inner/cache apb fetch org/name --source hub
    code=$?
    [ -z "$(find . /tmp/apb-stolen -name '*stolen*' 2>/dev/null)" ] || exit 9
    exit $code
}
