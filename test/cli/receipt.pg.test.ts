// `abide receipt` and `abide verify`, as whoever hands a receipt over types them, and whoever was handed one.
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';
import { runAbide, startAbide } from '../harness/abide.ts';
import { after, blocksOf, readPage } from '../docs/markdown.ts';
import { createSend } from '../harness/http.ts';

const KEYS_PATH = '/.well-known/abide-receipt-keys.json';
const KID = '[\\w-]{43}';
const AT = '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z';

test('a receipt is checked beside Abide and without it, and after its signing key was replaced', async () => {
  await using abide = await startAbide();
  const env = { ABIDE_URL: abide.url, ABIDE_KEY: abide.key };
  const send = createSend(abide.url);
  const body = { subject: { email: 'ada@example.com' } };
  const { json } = await send('POST', '/v1/opt-outs', { key: abide.key, body });
  const fileOf = (name: string): string => join(abide.dataFolder, name);
  const keep = async (name: string, text: string): Promise<string> => {
    await writeFile(fileOf(name), text);
    return fileOf(name);
  };
  const kidOf = async (file: string): Promise<string> =>
    (JSON.parse((await runAbide(['verify', file, '--json'], env)).stdout) as { kid: string }).kid;

  expect(await runAbide(['receipt', '01a21107-b4e9-77fd-a4a6-3364d00e3f37'], env)).toEqual({
    code: 3,
    stdout: '',
    output: "no opt-out 01a21107-b4e9-77fd-a4a6-3364d00e3f37, or it is another client's\n",
  });
  const asked = await runAbide(['receipt', json.id, '--wait', '30'], env);
  expect(asked.code).toBe(0);
  const receipt = await keep('receipt.json', asked.stdout);
  const verified = await runAbide(['verify', receipt, '--subject', 'Ada@example.com'], env);
  expect(verified).toMatchObject({
    code: 0,
    output: expect.stringMatching(
      new RegExp(`^valid: signed by key ${KID}
as of ${AT}: in force, complete
opt-out ${json.id} of email, sms, push
for email address, recorded ${AT}
STORE  STATE     CONFIRMED
crm    verified  ${AT}
about this email address
$`),
    ),
  });
  expect(await runAbide(['verify', receipt, '--subject', 'bob@example.com'], env)).toMatchObject({
    code: 3,
    output: expect.stringMatching(/\nNOT about this email address\n$/),
  });

  const rotated = await runAbide(['keys', 'rotate-signing', '--after', '0s', '--data', abide.dataFolder]);
  expect(rotated).toMatchObject({
    code: 0,
    stdout: '',
    output: expect.stringMatching(/^signing key 4 is in .*Publish the public keys again/),
  });
  await abide.stop();
  await abide.start();
  const later = await keep('later.json', (await runAbide(['receipt', json.id], env)).stdout);
  const kids = [await kidOf(receipt), await kidOf(later)];
  expect(new Set(kids).size).toBe(2);

  const set = await send('GET', KEYS_PATH);
  expect(JSON.parse(set.text).keys.map(({ kid }: { kid: string }) => kid)).toEqual(kids.reverse());
  const keys = await keep('keys.json.public', set.text);
  await send('POST', '/v2/subjects/erasure', {
    key: abide.key,
    body: { identifiers: [{ email: 'ada@example.com' }] },
  });
  const erased = await keep('erased.json', (await runAbide(['receipt', json.id], env)).stdout);
  expect(await runAbide(['verify', erased, '--subject', 'ada@example.com'], env)).toMatchObject({
    code: 3,
    output: expect.stringMatching(
      /\nit cannot be told whether it is about this email address: one was erased/,
    ),
  });
  await abide.stop();
  const offline = ['--keys', keys, '--subject', 'ada@example.com', '--json'];
  for (const file of [receipt, later]) {
    const { code, stdout } = await runAbide(['verify', file, ...offline]);
    expect([code, JSON.parse(stdout)]).toEqual([
      0,
      expect.objectContaining({ valid: true, about: true, statement: expect.any(Object) }),
    ]);
  }
  const example = ['docs/examples/check-receipt.mjs', later, keys, 'email'];
  const checked = await promisify(execFile)(process.execPath, [...example, 'ada@example.com']);
  expect(JSON.parse(checked.stdout)).toMatchObject({ opt_out: { id: json.id } });
  await expect(promisify(execFile)(process.execPath, [...example, 'bob@example.com'])).rejects.toMatchObject({
    code: 1,
    stderr: 'It is about somebody else.\n',
  });
  const ofErased = ['docs/examples/check-receipt.mjs', erased, keys, 'email', 'ada@example.com'];
  await expect(promisify(execFile)(process.execPath, ofErased)).rejects.toMatchObject({
    code: 1,
    stderr: 'It cannot be told any more: one was erased.\n',
  });

  expect(await runAbide(['verify', receipt], env)).toMatchObject({
    code: 1,
    output: expect.stringContaining(`Nobody answers at ${abide.url}${KEYS_PATH}: name the file`),
  });
  const text = await readFile(receipt, 'utf8');
  const forged = await keep('forged.json', text.replace(/\.eyJ/, '.eyK'));
  expect(await runAbide(['verify', forged, '--keys', keys])).toEqual({
    code: 3,
    stdout: expect.stringContaining('NOT valid: The signature does not fit'),
    output: expect.any(String),
  });
  const forgedJson = await runAbide(['verify', forged, '--keys', keys, '--json']);
  expect([forgedJson.code, JSON.parse(forgedJson.stdout)]).toEqual([3, { valid: false }]);

  // The receipt alone is valid as well; whom it is about cannot be told of it.
  const bare = await keep('bare.jws', `${(JSON.parse(text) as { receipt: string }).receipt}\n`);
  expect(await runAbide(['verify', bare, '--keys', keys])).toMatchObject({ code: 0 });
  expect(await runAbide(['verify', bare, ...offline])).toMatchObject({
    code: 1,
    output: expect.stringContaining('has no salt'),
  });
  // Half a salt is none: of everybody it would be told that the receipt is about somebody else.
  const { salt } = JSON.parse(text) as { salt: string };
  const cut = await keep('cut.json', text.replace(salt, salt.slice(0, -5)));
  expect(await runAbide(['verify', cut, ...offline])).toMatchObject({
    code: 1,
    output: expect.stringContaining('has no salt, or not all of it'),
  });
});

/** A server that answers as a test says. */
async function serve(
  answer: (path: string, response: ServerResponse) => unknown,
): Promise<AsyncDisposable & { readonly url: string }> {
  const server = createServer((request, response) => void answer(request.url!, response));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

test('what a server or an editor makes of the keys is taken, or refused in words and in time', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-receipt-'));
  const vector = JSON.parse(
    blocksOf(after(readPage('docs/receipts.md'), 'test vector'), 'json')[0]!,
  ) as object & { keys: object[] };
  const file = join(folder, 'vector.json');
  // Windows' editors put a mark before UTF-8.
  await writeFile(file, `\ufeff${JSON.stringify(vector)}`);
  const keys = JSON.stringify({ keys: vector.keys });
  await using server = await serve((path, answer) => {
    if (path === '/moved') return answer.writeHead(302, { location: '/keys' }).end();
    if (path === '/cut') {
      answer.writeHead(200, { 'content-length': keys.length }).write(keys.slice(0, 9));
      return setTimeout(() => answer.destroy(), 100);
    }
    if (path !== '/endless') return answer.end(`\ufeff${keys}`);
    answer.on('error', () => undefined);
    const more = (): void => {
      while (answer.write(Buffer.alloc(65_536, ' ')));
      answer.once('drain', more);
    };
    return more();
  });
  const verify = (from: string) => runAbide(['verify', file, '--keys', from]);
  try {
    for (const good of [file, `${server.url}/keys`, `${server.url}/moved`])
      expect(await verify(good)).toMatchObject({ code: 0 });
    expect(await verify(`${server.url}/cut`)).toMatchObject({
      code: 1,
      output: expect.stringContaining('/cut did not answer to the end'),
    });
    for (const endless of [`${server.url}/endless`, '/dev/zero'])
      expect(await verify(endless)).toMatchObject({
        code: 1,
        output: expect.stringContaining(`${endless} has more than 16 MiB`),
      });
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('an answer that is held because it was asked to be is not slow', async () => {
  await using server = await serve((_, answer) => setTimeout(() => answer.end('{}'), 6_000));
  const env = { ABIDE_URL: server.url, ABIDE_KEY: 'abide_live_x' };
  const [held, slow] = await Promise.all([
    runAbide(['receipt', 'x', '--wait', '8'], env),
    runAbide(['receipt', 'x'], env),
  ]);
  expect(held.output).not.toContain('does not answer yet');
  expect(slow.output).toContain('does not answer yet');
});

test('what cannot be read or understood is said in words', async () => {
  const none = await runAbide(['verify', 'no-such-file.json', '--keys', 'README.md']);
  expect(none).toMatchObject({
    code: 1,
    output: expect.stringContaining('no-such-file.json cannot be read'),
  });
  const page = await runAbide(['verify', 'package.json', '--keys', 'README.md']);
  expect(page).toMatchObject({
    code: 1,
    output: expect.stringContaining('README.md has no public keys: it is not JSON.'),
  });
  const empty = await runAbide(['verify', 'package.json', '--keys', 'package.json']);
  expect(empty).toMatchObject({
    code: 1,
    output: expect.stringContaining('The public keys are not a set of keys'),
  });
  expect(await runAbide(['verify', '-', '--keys', '-'])).toMatchObject({
    code: 1,
    output: expect.stringContaining('name a file for one of them'),
  });
  for (const subject of ['0791234567', '+41', 'ada@'])
    expect(await runAbide(['verify', 'package.json', '--subject', subject])).toMatchObject({ code: 2 });
  expect(await runAbide(['receipt', 'x', '--wait', '31'])).toMatchObject({ code: 2 });
});
