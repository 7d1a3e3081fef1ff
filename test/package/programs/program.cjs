const { load } = require('vl-mamba');
const { answer } = require('./answer.cjs');

answer({ load }).then(console.log);
