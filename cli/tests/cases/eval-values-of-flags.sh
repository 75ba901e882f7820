# A value that cannot be used is refused with its flag and what is valid, before a model is looked for.
#: not did not refuse
refused() {
    named=$1 && shift
    apb eval "$@" --model nowhere/at/all >out 2>err
    [ $? = 2 ] && grep -q -F -e "$named" err || { echo "did not refuse $*: $(cat err)"; exit 9; }
}
refused '--depths is 150; depths are percents of the text, from 0 to 100' niah --depths 50,150
refused '--depths is NaN; ' niah --depths NaN
refused '--depths is inf; ' niah --depths inf
refused '--depths is -5; ' niah --depths -5
refused '--depths names 50 twice' niah --depths 50,0,50
refused "invalid value '' for '--depths" niah --depths ''
for task in niah ruler infinitebench agreement; do
    refused '--tokens is 0; the least is 1' $task --tokens 900,0
    refused '--tokens is 1073741825; the most is 1073741824' $task --tokens 1073741825
    refused '--tokens names 900 twice' $task --tokens 900,900
    refused '--samples is 0; the least is 1' $task --samples 0
    refused '--samples is 1048577; the most is 1048576' $task --samples 1048577
    refused '--methods names full twice' $task --methods full,apb,full
done
refused '--samples is 0; the least is 1' longbench --data data.json --samples 0
refused '--max-tokens is 0; the least is 1' longbench --data data.json --max-tokens 0
refused 'data.json: No such file' longbench --data data.json
refused '--max-tokens is 0; the least is 1' infinitebench --max-tokens 0
refused '--max-tokens is 0; the least is 1' agreement --max-tokens 0
refused '--tasks names vt twice' ruler --tasks vt,cwe,vt
refused '--tasks names qa_1, which asks the questions of SQuAD; give their file with --squad FILE' ruler --tasks vt,qa_1
refused '--tasks names qa_2, which asks the questions of HotpotQA' ruler --tasks qa_2
refused '--tasks names passkey twice' infinitebench --tasks passkey,passkey
refused '--tasks names code_run, which is not generated; give the folder of its published file with --data' infinitebench --tasks code_run
refused 'nowhere.txt' ruler --haystack nowhere.txt
refused 'none/chart.svg: cannot be written: its folder does not exist' ruler --chart none/chart.svg
refused '--tokens names several lengths' tune --tokens 100,200
refused '--within is NaN; a divergence in nats is a number from 0 on' tune --within NaN
refused '--within is -1; ' tune --within -1
refused '--within is inf; ' tune --within inf
refused '--anchors is 0; the least is 1' tune --anchors 8,0
refused '--hardware: no rates are known of `h1000`; did you mean' tune --hardware h1000
