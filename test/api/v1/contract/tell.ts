// A story told to the server anew: what it answers to each request now.
import { fetch } from 'undici';
import { revokeKey } from '../../../../ledger/api-keys.ts';
import { createSend } from '../../../harness/http.ts';
import { grant } from '../../../harness/ledger.ts';
import { serveLedger } from '../../../harness/served-ledger.ts';
import { Meanings } from './story.ts';
import type { Exchange, Story, StoryAnswer } from './story.ts';

/** Headers that clients decide by, besides those that every answer has (test/harness/http.ts checks them). */
const HEADERS = [
  'content-type',
  'location',
  'link',
  'idempotency-replayed',
  'preference-applied',
  'vary',
  'retry-after',
  'www-authenticate',
  'allow',
] as const;

/** What a version says of its own end is not part of what it promised before: it is added to `Link`. */
const OF_THE_VERSION = /(?:^|, )<[^>]*>; rel="(?:deprecation|sunset|successor-version)"[^,]*/g;

export type Told = { readonly meanings: Meanings; readonly requestId: string; readonly answer: StoryAnswer };

/** Calls `hear` with every answer, in order; what it binds in `meanings` is known to the requests that follow. */
export async function tell(story: Story, hear: (exchange: Exchange, told: Told) => void): Promise<void> {
  await using served = await serveLedger({}, { defaultRegion: story.default_region });
  if (story.stores.length > 0) await served.t.register(...story.stores);
  const tokens = new Map<string, string>();
  for (const [name, { client, scopes, store, expires_at: expiresAt, revoked }] of Object.entries(
    story.keys,
  )) {
    const fields = { client, scopes, store, expiresAt, caller: undefined };
    const { key, token } = await served.t.ledger.createKey(fields);
    if (revoked === true) await revokeKey(served.t.pool, key.id, undefined);
    tokens.set(name, token);
  }
  const meanings = new Meanings();
  // Another test compares these answers with what is documented today.
  const send = createSend(served.url, () => undefined);
  for (const step of story.steps) {
    if ('grant' in step) {
      await grant(served.t, meanings.fill(step.grant.subject), step.grant.scopes);
      continue;
    }
    const { method, path, key, headers = {}, body, text } = step.request;
    const filled = Object.fromEntries(
      Object.entries(headers).map(([name, one]) => [name, meanings.fill(one)]),
    );
    const to = meanings.fill(path);
    const token = key === undefined ? undefined : tokens.get(key)!;
    if (step.request.path === '/v1/propagation-lag/events' && method === 'GET' && token !== undefined) {
      hear(step, { meanings, ...(await firstEvents(new URL(to, served.url), token)) });
      continue;
    }
    const answer = await send(method, to, {
      key: token,
      headers: filled,
      body: text === undefined ? meanings.fillAll(body) : meanings.fill(text),
    });
    // An answer is written as JSON.stringify writes it, so the members and their order are the bytes.
    if (answer.json !== undefined && JSON.stringify(answer.json) !== answer.text)
      throw new Error(`${step.what}: the answer is not written as its JSON would be: ${answer.text}`);
    if (answer.json === undefined && answer.text !== '') throw new Error(`${step.what}: ${answer.text}`);
    hear(step, {
      meanings,
      requestId: answer.headers['x-request-id']!,
      answer: {
        status: answer.status,
        headers: watched(answer.headers),
        ...(answer.json === undefined ? {} : { body: answer.json as unknown }),
      },
    });
  }
}

function watched(headers: Readonly<Record<string, string | undefined>>): Record<string, string> {
  const all: typeof headers = { ...headers, link: headers['link']?.replaceAll(OF_THE_VERSION, '') };
  return Object.fromEntries(
    HEADERS.flatMap((name) => (all[name] === undefined || all[name] === '' ? [] : [[name, all[name]]])),
  );
}

/** An answer without end, up to its first event. */
async function firstEvents(to: URL, token: string): Promise<Omit<Told, 'meanings'>> {
  const stop = new AbortController();
  const answer = await fetch(to, { headers: { authorization: `Bearer ${token}` }, signal: stop.signal });
  let text = '';
  for await (const chunk of answer.body!) {
    text += Buffer.from(chunk as Uint8Array).toString();
    if (/\ndata: .*\n\n$/.test(text)) break;
  }
  stop.abort();
  const events = text
    .split('\n\n')
    .slice(0, -1)
    .map((block) => {
      const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(block) ?? [];
      return data === undefined ? block : { event, data: JSON.parse(data) as unknown };
    });
  return {
    requestId: answer.headers.get('x-request-id')!,
    answer: {
      status: answer.status,
      headers: watched(Object.fromEntries(answer.headers)),
      body: events,
    },
  };
}
