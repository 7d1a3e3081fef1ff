import { load } from 'vl-mamba';
import { answer } from './answer.cjs';

console.log(await answer({ load }));
