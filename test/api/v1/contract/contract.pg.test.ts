// What v1 answered on the day on which each of these exchanges was recorded, it answers today, byte for byte: a client written
// against it finds everything as it was, whatever stands beside v1 by now.
//
// The recordings are kept for ever. No command rewrites one, and nobody does: if an answer differs, the answer is what is wrong.
// Only the `detail` of a problem may be reworded (docs/errors.md), by hand. A missing story is added: its requests, without
// answers, at the end of a file or in one of its own; then `ABIDE_RECORD=new npm test test/api/v1/contract` records the answers to
// them, and leaves every existing recording as it is.
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { expect, test } from '@jest/globals';
import { operationsOf } from '../../../../api/versions.ts';
import { record } from './record.ts';
import type { Exchange, Story } from './story.ts';
import { tell } from './tell.ts';

const stories = globSync('test/api/v1/contract/*.json')
  .sort()
  .map((path) => ({ path, name: basename(path, '.json'), story: read(path) }));

function read(path: string): Story {
  return JSON.parse(readFileSync(path, 'utf8')) as Story;
}

const exchangesOf = ({ steps }: Story): Exchange[] => steps.filter((step) => 'request' in step);

const isRecording = process.env['ABIDE_RECORD'] === 'new';

test.each(stories)('v1 answers as it always did: $name', async ({ path, story }) => {
  const isWhole = exchangesOf(story).every(({ answer }) => answer !== undefined);
  if (isRecording && !isWhole) writeFileSync(path, `${JSON.stringify(await record(story), undefined, 2)}\n`);
  const recorded = isRecording ? read(path) : story;
  await tell(recorded, ({ what, answer }, { meanings, requestId, answer: now }) => {
    expect(inLines(what, meanings.inWordsOf(answer, now, requestId))).toBe(inLines(what, answer));
  });
});

/** With the members in their order, which is what is compared. */
const inLines = (what: string, answer: unknown): string => `${what}\n${JSON.stringify(answer, undefined, 2)}`;

test('nothing that v1 has is without a recording', () => {
  const recorded = stories.flatMap(({ story }) => exchangesOf(story));
  const missing = operationsOf('v1').filter(({ method, path }) => {
    const form = new RegExp(`^${path.replaceAll(/:\w+/g, '[^/?]+')}(?:\\?|$)`);
    return !recorded.some(
      ({ request, answer }) =>
        request.method === method.toUpperCase() && form.test(request.path) && (answer?.status ?? 0) < 300,
    );
  });
  expect(missing.map(({ id }) => id)).toEqual([]);
});
