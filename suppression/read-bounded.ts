/**
 * The UTF-8 text of what comes from outside, without the mark that editors put before it; undefined if it has more than `bytesMax`
 * bytes. Nothing more is read then.
 */
export async function readBounded(
  source: AsyncIterable<Uint8Array>,
  bytesMax: number,
): Promise<string | undefined> {
  const pieces: Uint8Array[] = [];
  let left = bytesMax;
  for await (const piece of source) {
    left -= piece.length;
    if (left < 0) return undefined;
    pieces.push(piece);
  }
  return new TextDecoder().decode(Buffer.concat(pieces));
}
