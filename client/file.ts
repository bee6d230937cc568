// A file on its way out: piece by piece, as fast as they are taken, opened anew for each try where that can be done.

/** Pieces of a file, in order; text is sent as UTF-8. */
export type FilePieces = ReadableStream<Uint8Array> | AsyncIterable<Uint8Array | string>;

/** What is sent as a file. A Blob, or a function that opens it, can be sent again where the line breaks; pieces go once. */
export type FileSource = Blob | FilePieces | (() => Blob | FilePieces | Promise<Blob | FilePieces>);

/** A Blob goes to the platform as it is, and how far it is cannot be seen: it has this for each second. */
const BLOB_BYTES_A_SECOND_MIN = 64 * 1024;

/** Of one try. */
export type Movement = {
  /** What takes its time now is the source. */
  reads(): void;
  /** A piece of the file goes, or so much of it. */
  goes(expectedMs?: number): void;
};

/** The body of one try. */
export type FileBody = {
  readonly init: RequestInit & { readonly duplex?: 'half' };
  /** What the caller's own source failed with. */
  failure(): { readonly error: unknown } | undefined;
  /** Closes the source, wherever it is. */
  end(): void;
};

export const isGivenAgain = (source: FileSource): boolean =>
  typeof source === 'function' || source instanceof Blob;

export async function openFile(source: FileSource, movement: Movement): Promise<FileBody> {
  if (typeof source === 'function') {
    movement.reads();
    source = await source();
    movement.goes();
  }
  if (!(source instanceof Blob)) return streamed(source, movement);
  movement.goes((source.size / BLOB_BYTES_A_SECOND_MIN) * 1_000);
  // Not as a stream: most browsers send none, and all of them send a Blob from the disk.
  return { init: { body: source }, failure: () => undefined, end: () => undefined };
}

function streamed(pieces: FilePieces, movement: Movement): FileBody {
  const reading = readingOf(pieces);
  const encoder = new TextEncoder();
  let failure: { readonly error: unknown } | undefined;
  let isOver = false;
  const end = (): void => {
    if (isOver) return;
    isOver = true;
    reading.end().catch(() => undefined);
  };
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
    movement.reads();
    try {
      const next = await reading.next();
      if (isOver) return;
      movement.goes();
      if (next.done === true) {
        isOver = true;
        controller.close();
      } else controller.enqueue(typeof next.value === 'string' ? encoder.encode(next.value) : next.value);
    } catch (error) {
      if (isOver) return;
      isOver = true;
      failure = { error };
      controller.error(error);
    }
  };
  // Nothing is read ahead of what is taken.
  const body = new ReadableStream<Uint8Array>({ pull, cancel: end }, { highWaterMark: 0 });
  return { init: { body, duplex: 'half' }, failure: () => failure, end };
}

type Reading = {
  next(): Promise<IteratorResult<Uint8Array | string, unknown>>;
  end(): Promise<unknown>;
};

function readingOf(pieces: FilePieces): Reading {
  // Not every browser's stream is iterable.
  if (pieces instanceof ReadableStream) {
    const reader = pieces.getReader();
    return { next: () => reader.read(), end: () => reader.cancel() };
  }
  const iterator = pieces[Symbol.asyncIterator]();
  return { next: () => iterator.next(), end: async () => iterator.return?.() };
}
