import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterAll, expect, test } from '@jest/globals';
import { request } from 'undici';
import { Item } from '../../connectors/contract/connector.ts';
import type { SubjectKey } from '../../connectors/contract/connector.ts';
import http, { sign } from '../../connectors/http.ts';
import { Address } from '../../suppression/subject.ts';
import { startHttpStore } from '../harness/http-store.ts';
import { blocksOf, readPage } from './markdown.ts';

const page = readPage('docs/http-connector.md');
const [SECRET] = /whsec_[A-Za-z0-9+/=]{20,}/.exec(page) as unknown as [string];

const example = await startHttpStore(SECRET);
afterAll(async () => {
  await example[Symbol.asyncDispose]();
});

type Message = { first: string; headers: Record<string, string>; body: string };
function toMessage(block: string): Message {
  const [head, ...rest] = block.split('\n\n');
  const [first, ...lines] = head!.split('\n');
  const headers = lines
    .filter((line) => line !== '')
    .map((line) => /^([^:]+): (.*)$/.exec(line)!.slice(1))
    .map(([name, value]) => [name!.toLowerCase(), value!]);
  return {
    first: first!,
    headers: Object.fromEntries(headers) as Message['headers'],
    body: rest.join('\n\n').trimEnd(),
  };
}

const messages = blocksOf(page, 'http').map(toMessage);
const exchanges = messages.flatMap((asked, n) =>
  n % 2 === 0 ? [{ asked, answered: messages[n + 1]! }] : [],
);
const payloadOf = ({ headers, body }: Message): string => headers['abide-keys'] ?? body;
const signatureOf = (message: Message): string | undefined =>
  sign(
    SECRET,
    message.headers['webhook-id']!,
    Number(message.headers['webhook-timestamp']),
    payloadOf(message),
  )['webhook-signature'];
const isSigned = (message: Message): boolean => message.headers['webhook-signature'] === signatureOf(message);

test('every request of the page is signed as the page says, but the one that it says is not', () => {
  expect(exchanges.map(({ asked }) => isSigned(asked))).toEqual([true, true, true, false]);
});

test('the example store gives the answers of the page to its requests', async () => {
  for (const { asked, answered } of exchanges) {
    const [method, path] = asked.first.split(' ') as ['GET' | 'POST', string];
    // The page's own signatures are too old by now.
    const now = Math.floor(Date.now() / 1_000);
    const fresh = isSigned(asked) ? sign(SECRET, asked.headers['webhook-id']!, now, payloadOf(asked)) : {};
    const { statusCode, headers, body } = await request(example.url + path, {
      method,
      headers: { ...asked.headers, ...fresh },
      body: method === 'POST' ? asked.body : null,
    });
    expect(`HTTP/1.1 ${statusCode}`).toBe(answered.first.replace(/( \d+) .*/, '$1'));
    expect(headers).toMatchObject(answered.headers);
    expect(await body.json()).toEqual(JSON.parse(answered.body));
  }
});

test('what the example store keeps, plain addresses, is for nobody but its user', async () => {
  expect((await stat(example.file)).mode & 0o777).toBe(0o600);
});

/** Gives the page's answer to whatever it is asked, and remembers the question. */
async function startRecorder() {
  let answer = '';
  const asked: { body: string; keys: string | undefined }[] = [];
  const server = createServer((incoming, response) => {
    void text(incoming).then((body) => {
      asked.push({ body, keys: incoming.headers['abide-keys'] as string | undefined });
      response.end(answer);
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    setAnswer: (next: string) => (answer = next),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

type SentItem = {
  [Field in keyof Item as Field extends 'effectiveAt' ? never : Field]: Item[Field];
} & { readonly effective_at: string };
const toItem = ({ effective_at: effectiveAt, kind, key, ...rest }: SentItem): Item =>
  new Item({ ...rest, key, effectiveAt, subject: { kind, value: new Address(key) } });

test('the connector asks what the page asks, and understands what it answers', async () => {
  const silent = (): void => undefined;
  const context = {
    log: { debug: silent, info: silent, warn: silent, error: silent },
    name: 'mail',
    scopes: new Map<string, unknown>([
      ['email', { list: 42 }],
      ['sms', {}],
    ]),
  };
  await using recorder = await startRecorder();
  const options = http.options.parse({ url: recorder.url, secret: SECRET, allow_private: true });
  await using store = await http.open(options, context);
  const deadline = AbortSignal.timeout(10_000);

  for (const { asked, answered } of exchanges.filter(({ asked: one }) => isSigned(one))) {
    recorder.setAnswer(answered.body);
    if (asked.first.startsWith('POST')) {
      const { items } = JSON.parse(asked.body) as { items: SentItem[] };
      const outcomes = await store.apply(items.map(toItem), deadline);
      expect({ outcomes }).toEqual(JSON.parse(answered.body));
      expect(JSON.parse(recorder.asked.at(-1)!.body)).toEqual(JSON.parse(asked.body));
    } else {
      const keys = JSON.parse(Buffer.from(payloadOf(asked), 'base64url').toString()) as SubjectKey[];
      const held = await store.readBack(keys, deadline);
      expect(held.map((state) => state ?? null)).toEqual(
        (JSON.parse(answered.body) as { held: unknown }).held,
      );
      expect(recorder.asked.at(-1)!.keys).toBe(payloadOf(asked));
    }
  }
});
