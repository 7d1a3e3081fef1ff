const { dirname, join } = require('node:path');

/** Asks the demo model of the installed package about one of its pictures. */
exports.answer = async ({ load }) => {
  const demo = join(dirname(require.resolve('vl-mamba/package.json')), 'models', 'demo');
  const model = await load(demo, { threads: 1 });
  const messages = [{ role: 'user', content: 'How many objects are there?' }];
  const { text } = await model.generate({ messages, images: [join(demo, 'pictures', 'shapes.png')] });
  await model.dispose();
  return text.trim();
};
