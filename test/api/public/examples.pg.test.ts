// Every example of every version's document is answered as it stands there. If the order matters to a version, its own folder has
// the order: test/api/v1/examples-in-order.ts.
import { existsSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { servedVersions } from '../../../api/version.ts';
import { VERSIONS } from '../../../api/versions.ts';
import { replayExamples } from './replay-examples.ts';
import type { TellExamples } from './replay-examples.ts';

test.each(servedVersions(VERSIONS))('every example of %s is answered as it stands there', async (name) => {
  const story = new URL(`../${name}/examples-in-order.ts`, import.meta.url);
  const own = existsSync(story)
    ? ((await import(story.href)) as { tellExamples: TellExamples }).tellExamples
    : undefined;
  await replayExamples(name, own);
  expect.hasAssertions();
});
