/** node hello.mjs MODEL PICTURE [QUESTION]: the answer as it is written, and what it took. */
import { argv, stdout } from 'node:process';
import { load } from 'vl-mamba';

const [, , name = 'demo', picture, content = 'Describe the picture.'] = argv;

const model = await load(name); // a folder, org/name on the hub, or demo
const answer = model.generate({ messages: [{ role: 'user', content }], images: [picture] });
for await (const text of answer) stdout.write(text);
const { finishReason, usage } = await answer;
console.log(`\n(${finishReason}; ${usage.imageTokens} positions of picture, ${usage.promptTokens} tokens of text)`);
await model.dispose();
