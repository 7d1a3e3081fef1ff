import { join } from 'node:path';
import { app, BrowserWindow, ipcMain } from 'electron';
import { answers } from './answers.mjs';

const { ask, stop, quit } = answers(process.env.MODEL ?? 'demo');
ipcMain.handle('ask', (event, question) => ask(event.sender, question));
ipcMain.on('stop', (event, question) => stop(event.sender, question));

await app.whenReady();
const window = new BrowserWindow({ webPreferences: { preload: join(import.meta.dirname, 'preload.cjs') } });
await window.loadFile(join(import.meta.dirname, 'index.html'));
app.on('window-all-closed', async () => {
  await quit();
  app.quit();
});
