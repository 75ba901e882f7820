# Results are not replaced by their chart, and a chart that cannot be made is refused before anything is computed.
#: exit 2
#: stderr --chart names the file of --out
#: stderr its folder does not exist
#: stderr it is a folder
small='--tokens 900 --samples 1 --depths 50 --methods full'
ln -s results.jsonl link
apb eval niah --model "$MODEL" $small --out results.jsonl >shown || exit 9
apb eval niah --model "$MODEL" $small --out results.jsonl --chart link && exit 9
apb eval niah --model "$MODEL" $small --out new.jsonl --chart "$PWD/new.jsonl" && exit 9
head -c 8 results.jsonl | grep -q '{"eval"' || exit 9
apb eval niah --model "$MODEL" $small --chart none/chart.svg && exit 9
apb eval agreement --model "$MODEL" --chart .
