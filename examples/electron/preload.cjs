const { contextBridge, ipcRenderer } = require('electron');

let last = 0;

// A window sees this and nothing else of Node.
contextBridge.exposeInMainWorld('vlMamba', {
  /** Bytes of a picture, a question, and what to do with each piece of the answer. */
  async ask(picture, question, onText) {
    const id = ++last;
    const listener = (_, answer) => answer.id === id && onText(answer.text);
    ipcRenderer.on('answer', listener);
    try {
      return await ipcRenderer.invoke('ask', { id, picture: new Uint8Array(picture), question });
    } finally {
      ipcRenderer.off('answer', listener);
    }
  },
  stop: () => ipcRenderer.send('stop', { id: last }),
});
