// How else than with gzip a batch of records may be compressed: by a producer (Connect's, as whoever runs it has set it), or by
// the brokers, where a topic says so. The client reads gzip alone, and ends for good at any other. What reads the others is
// loaded once there is such a batch.
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';

const MAGIC = Buffer.from('\x82SNAPPY\0', 'latin1');
/** The magic, and two versions of its form. */
const HEADER = MAGIC.length + 8;

/** Snappy, in the Java producer's blocks, each behind its length (the form of xerial/snappy-java), or in one, as others write it. */
export async function unsnappy(bytes: Buffer): Promise<Buffer> {
  const { uncompress } = await import('snappy');
  const blocks: Buffer[] = [];
  if (bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    for (let at = HEADER; at < bytes.length;) {
      const begin = at + 4;
      at = begin + bytes.readUInt32BE(at);
      blocks.push(bytes.subarray(begin, at));
    }
  } else blocks.push(bytes);
  return Buffer.concat(await Promise.all(blocks.map(async (block) => (await uncompress(block)) as Buffer)));
}

/** A frame of LZ4. */
export async function unlz4(bytes: Buffer): Promise<Buffer> {
  const { decompressFrame } = await import('lz4-napi');
  return await decompressFrame(bytes);
}

/** Zstandard. */
export const unzstandard: (bytes: Buffer) => Promise<Buffer> = promisify(zstdDecompress);
