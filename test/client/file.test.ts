import { expect, test } from '@jest/globals';
import { openFile } from '../../client/file.ts';

async function sent(pieces: readonly (string | Uint8Array)[]): Promise<string> {
  async function* source(): AsyncGenerator<string | Uint8Array> {
    for (const piece of pieces) yield await Promise.resolve(piece);
  }
  const { init } = await openFile(source(), { reads: () => undefined, goes: () => undefined });
  return await new Response(init.body ?? null).text();
}

// Found by reading: each half was sent as U+FFFD, and the opt-out of somebody else was recorded.
test('text that is cut anywhere is sent as it is', async () => {
  const text = 'x😀y@example.com\n😀😀';
  for (const length of [1, 2, 3])
    expect(await sent(text.match(new RegExp(`[^]{1,${length}}`, 'g'))!)).toBe(text);
  expect(await sent([new TextEncoder().encode('ä'), 'ö😀', new TextEncoder().encode('ü')])).toBe('äö😀ü');
});

test.each([
  ['at the end', ['x\ud83d']],
  ['before bytes', ['x\ud83d', new Uint8Array([65])]],
  ['before other text', ['x\ud83d', 'y']],
  ['without the half before it', ['x', '\ude00y']],
])('half a character %s is refused: it would be somebody else', async (_, pieces) => {
  await expect(sent(pieces)).rejects.toThrow('The file has half a character (an unpaired surrogate).');
});
