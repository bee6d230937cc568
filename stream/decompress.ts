// Ways other than gzip in which a batch of records may be compressed: by a producer (Connect's, as its operator has set it), or by
// the brokers if a topic says so. The client reads only gzip, and ends for good at any other. The library for another one is loaded
// once there is such a batch.
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';

const MAGIC = Buffer.from('\x82SNAPPY\0', 'latin1');
/** The magic, and two versions of the format. */
const HEADER = MAGIC.length + 8;

/** Snappy: the Java producer's blocks, each behind its length (as in xerial/snappy-java), or one block, as others write it. */
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
