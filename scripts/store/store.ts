import type { Readable } from 'node:stream'

/** Something in a store. */
export interface Entry {
  /** Path from the store's root, with `/` between its parts. */
  readonly key: string
  readonly size: number
  readonly modified: Date
}

/** Bytes `first` to `last`, both included, from 0. */
export interface ByteRange {
  readonly first: number
  readonly last: number
}

/** Where bytes rest. A folder and a bucket keep the same contract, which one test checks. */
export interface Store {
  /** For messages; never holds a secret. */
  readonly url: string
  /** Every entry under a prefix, in order of the keys. An empty or missing prefix yields nothing. */
  list(prefix: string): AsyncIterable<Entry>
  /** @throws {Fail} `store-missing`, told apart from `store-denied` and `store-unreachable` */
  get(key: string, range?: ByteRange): Promise<Readable>
  /**
   * Stores all of the body or, when it fails, nothing; replaces what is there. A piece of the body is used
   * up when the next one is asked for: its memory may be another piece's then.
   */
  put(key: string, body: AsyncIterable<Uint8Array>): Promise<Entry>
  /** Stores the body only if the key is free. @returns whether it was */
  create(key: string, body: Uint8Array): Promise<boolean>
  /** Keys that are missing are no error. */
  delete(keys: readonly string[]): Promise<void>
}
