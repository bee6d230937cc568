// How else than with gzip a batch of records may be compressed: by a producer (Connect's, as whoever runs it has set it), or by
// the brokers, where a topic says so. The client reads gzip alone, and ends for good at any other. Of their formats here is what
// producers write; the broker has looked at every batch before it took it.
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';

const unzstd = promisify(zstdDecompress);

/** What is decompressed so far, from which the rest is copied. */
class Output {
  #bytes = Buffer.allocUnsafe(64 * 1024);
  #length = 0;

  literal(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }
  /** `length` bytes from `distance` back on; what they write may be among what they read. */
  copy(distance: number, length: number): void {
    if (distance === 0 || distance > this.#length) throw new RangeError('a compressed batch is damaged');
    this.#reserve(length);
    const end = this.#length + length;
    for (let at = this.#length; at < end; at += 1) this.#bytes[at] = this.#bytes[at - distance]!;
    this.#length = end;
  }
  whole(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }
  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const bytes = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(bytes, 0, 0, this.#length);
    this.#bytes = bytes;
  }
}

/** Of the Java producer's blocks, or one without them, as others write it. */
export function unsnappy(bytes: Buffer): Buffer {
  const magic = Buffer.from('\x82SNAPPY\0', 'latin1');
  const out = new Output();
  if (!bytes.subarray(0, magic.length).equals(magic)) {
    unsnappyBlock(bytes, out);
    return out.whole();
  }
  for (let at = magic.length + 8; at < bytes.length;) {
    const length = bytes.readUInt32BE(at);
    at += 4;
    unsnappyBlock(bytes.subarray(at, (at += length)), out);
  }
  return out.whole();
}

function unsnappyBlock(block: Buffer, out: Output): void {
  let at = 0;
  // The length of the result, seven bits a byte.
  while (block.readUInt8(at++) >= 0x80);
  while (at < block.length) {
    const tag = block.readUInt8(at++);
    const upper = tag >> 2;
    switch (tag & 3) {
      case 0: {
        const bytesOfLength = Math.max(0, upper - 59);
        const length = (bytesOfLength === 0 ? upper : block.readUIntLE(at, bytesOfLength)) + 1;
        at += bytesOfLength;
        out.literal(block.subarray(at, (at += length)));
        break;
      }
      case 1:
        out.copy(((tag >> 5) << 8) | block.readUInt8(at++), (upper & 7) + 4);
        break;
      case 2:
        out.copy(block.readUInt16LE(at), upper + 1);
        at += 2;
        break;
      default:
        out.copy(block.readUInt32LE(at), upper + 1);
        at += 4;
    }
  }
}

/** A frame of LZ4; its checksums are not looked at. */
export function unlz4(bytes: Buffer): Buffer {
  const flags = bytes.readUInt8(4);
  const [hasContentSize, hasDictionary, hasBlockSums] = [flags & 8, flags & 1, flags & 16];
  const out = new Output();
  let at = 7 + (hasContentSize ? 8 : 0) + (hasDictionary ? 4 : 0);
  for (let size: number; (size = bytes.readUInt32LE(at)) !== 0;) {
    at += 4;
    const isStored = size >= 0x8000_0000;
    const block = bytes.subarray(at, (at += isStored ? size - 0x8000_0000 : size));
    if (isStored) out.literal(block);
    else unlz4Block(block, out);
    if (hasBlockSums) at += 4;
  }
  return out.whole();
}

function unlz4Block(block: Buffer, out: Output): void {
  let at = 0;
  const lengthOf = (nibble: number): number => {
    let length = nibble;
    for (let more = nibble === 15 ? 255 : 0; more === 255;) length += more = block.readUInt8(at++);
    return length;
  };
  while (at < block.length) {
    const token = block.readUInt8(at++);
    const literals = lengthOf(token >> 4);
    out.literal(block.subarray(at, (at += literals)));
    // The last sequence is of literals alone.
    if (at >= block.length) return;
    const distance = block.readUInt16LE(at);
    at += 2;
    out.copy(distance, lengthOf(token & 15) + 4);
  }
}

/** Of Zstandard. */
export const unzstandard = (bytes: Buffer): Promise<Buffer> => unzstd(bytes);
