// Walks through the README's tour: each of its commands is typed into a shell, in order, and answers what the page shows.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

type Answer = { object?: string; propagation?: unknown; request_id?: unknown };
type Block = { readonly language: string; readonly text: string };

/** The code blocks of a section, in order. */
const blocksOf = (page: string, title: string): Block[] => {
  const section = page.split(/^## /m).find((one) => one.startsWith(`${title}\n`))!;
  return [...section.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(([, language, text]) => ({
    language: language!,
    text: text!,
  }));
};

let folder: string;
let port: number;
let stop: () => Promise<void>;
let printed: () => string;

/** A shell like the second terminal: in the checkout, with the data folder and the port of this run. */
function shell(command: string): { said: Promise<string>; pid: number; output(): string } {
  const child = spawn('sh', ['-c', command], {
    cwd: CHECKOUT,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_OPTIONS: '', ABIDE_CONFIG: '', ABIDE_DATA: folder, PORT: String(port) },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  return {
    said: new Promise((resolve) => child.once('close', () => resolve(output))),
    pid: child.pid!,
    output: () => output,
  };
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-tour-'));
  port = await freePort();
});
afterAll(async () => {
  await stop();
  await rm(folder, { recursive: true, force: true });
});

/** Gives names to what differs from run to run; columns may be wider. */
const plain = (text: string): string =>
  text
    .replaceAll(/abide_live_\w+/g, 'KEY')
    .replaceAll('/home/you/abide/.abide', 'DATA')
    .replaceAll(folder, 'DATA')
    .replaceAll(String(port), '8080')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, 'ID')
    .replaceAll(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z/g, 'TIME')
    .replaceAll(/\d+(\.\d+)? (ms|s)\b/g, 'N $2')
    .replaceAll(/^\d+(?= {2}TIME)/gm, 'N')
    .replaceAll(/ {2,}/g, '  ')
    .trim();

test('every command of the tour answers what the page shows', async () => {
  const [start, shown, ...rest] = blocksOf(await readFile(join(CHECKOUT, 'README.md'), 'utf8'), 'The tour');
  expect(start).toEqual({ language: 'sh', text: 'npm start\n' });
  const serving = shell(start!.text);
  printed = serving.output;
  stop = async () => {
    process.kill(-serving.pid, 'SIGINT');
    await serving.said;
  };
  await eventually(() => expect(printed()).toContain('abide: ready after'));
  const ownLines = printed()
    .split('\n')
    .filter((line) => !/^> |^$/.test(line));
  expect(plain(ownLines.join('\n'))).toBe(plain(shown!.text.replaceAll(/^\n/gm, '')));

  // The lines share a shell on the page: the key that the first one reads serves those after it.
  const commands = rest.flatMap((block, n) =>
    block.language === 'sh' ? [{ ...block, answer: rest[n + 1]! }] : [],
  );
  expect(commands.length).toBeGreaterThan(4);
  for (const { text, answer } of commands) {
    const typed = text.replaceAll('.abide/', `${folder}/`).replaceAll('8080', String(port));
    const said = await shell(typed).said;
    if (answer.language === 'json') expect(JSON.parse(plain(said))).toEqual(JSON.parse(plain(answer.text)));
    else expect(plain(said)).toBe(plain(answer.text));
  }
  // What the page says of the first terminal.
  const line = rest.find(({ text }) => text.includes(' recorded, crm verified'))!;
  await eventually(() => expect(plain(printed())).toContain(plain(line.text)));
});

// Pasted one after the other, the grant was answered 409 grant-not-later: its time was cut to the second of the opt-out before it.
test('every command of the API by example works as pasted, in order, and answers what the page shows', async () => {
  const blocks = blocksOf(await readFile(join(CHECKOUT, 'README.md'), 'utf8'), 'The API by example');
  // The page goes on in the terminal of the tour, which has the key.
  const typed = `KEY=$(cat ${folder}/admin.key)`;
  let tried = 0;
  for (const [n, { language, text }] of blocks.entries()) {
    if (language !== 'sh') continue;
    tried += 1;
    const said = await shell(`${typed}\n${text.replaceAll('8080', String(port))}`).said;
    const answer = blocks[n + 1];
    if (answer?.language === 'json') {
      const [got, shown] = [said, answer.text].map((one) => JSON.parse(plain(one)) as Answer);
      // The progress by then and the id of a request differ each time.
      for (const one of [got!, shown!]) {
        delete one.propagation;
        delete one.request_id;
      }
      expect(got).toEqual(shown);
    } else if (answer?.language === '') expect(plain(said)).toBe(plain(answer.text));
    else expect((JSON.parse(said) as Answer).object).toMatch(/^(opt_out|grant)$/);
  }
  expect(tried).toBeGreaterThan(5);
});
