/**
 * node choices.mjs MODEL PICTURE QUESTION CHOICE…
 *
 * How likely each of several answers is, from one reading of the picture and the question. What a choice begins with (a blank,
 * a capital) is part of it: give choices as the model would write them.
 */
import { argv } from 'node:process';
import { load } from 'vl-mamba';

const [, , name = 'demo', picture, content, ...choices] = argv;
const model = await load(name);
const scores = await model.score({ messages: [{ role: 'user', content }], images: [picture], choices });
for (const { choice, share, logprob } of scores.sort((a, b) => b.share - a.share))
  console.log(
    `${(100 * share).toFixed(1).padStart(5)} %  ${JSON.stringify(choice)}  (log-probability ${logprob.toFixed(2)})`,
  );
await model.dispose();
