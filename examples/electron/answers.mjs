import { load } from 'vl-mamba';

/**
 * What the main process does for its windows: `ask` streams an answer to the window that asked, as events under the
 * question's id; `stop` ends it. A window that is closed ends its own.
 */
export function answers(name) {
  let model;
  const running = new Map();
  const key = (sender, id) => `${sender.id}:${id}`;
  return {
    async ask(sender, { id, picture, question }) {
      const stop = new AbortController();
      const left = () => stop.abort();
      running.set(key(sender, id), stop);
      sender.once('destroyed', left);
      try {
        model ??= load(name);
        const generation = (await model).generate({
          messages: [{ role: 'user', content: question }],
          images: [picture],
          signal: stop.signal,
        });
        for await (const text of generation) sender.send('answer', { id, text });
        return { finishReason: (await generation).finishReason };
      } catch (error) {
        if (stop.signal.aborted) return { finishReason: 'abort' };
        // Errors lose their code on the way to a window.
        return { error: { code: error.code, message: error.message } };
      } finally {
        running.delete(key(sender, id));
        sender.off('destroyed', left);
      }
    },
    stop: (sender, { id }) => running.get(key(sender, id))?.abort(),
    quit: async () => (await model)?.dispose(),
  };
}
