# Starts the lying hub with the given headers and points `apb` at it.
start_hub() {
    python3 "$TOOLS/hub.py" port "$@" &
    while [ ! -f port ]; do sleep 0.05; done
    export HF_ENDPOINT="http://127.0.0.1:$(cat port)"
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
