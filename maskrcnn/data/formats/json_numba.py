"""Pieces of json in a text of bytes (uint8), where they are plain: numbers that can be read exactly, strings of ASCII
without escapes. What a function does not call plain may be json all the same; what it calls plain is, with the value
that Python's json gives it.

A function returns the index after what it read, or -1. Serial: they may run in any thread.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit

QUOTE, BACKSLASH, COMMA, COLON, MINUS, POINT, ZERO, NINE = (ord(c) for c in '"\\,:-.09')
OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = (ord(c) for c in "[]{}")
NOT_PLAIN, FRACTION, INTEGER = 0, 1, 2  # what `number` met
NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"null", b"true", b"false"))

_DEEPEST = 60
_POWERS = np.array([10.0**k for k in range(23)])  # exact doubles
_WHOLE_POWERS = np.array([10**k for k in range(19)], np.uint64)


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def find_list(text, key):  # noqa: ANN001, ANN201
    """Where the list begins that the outermost object holds under `key` (both uint8), or -1."""
    i, depth, n = 0, 0, len(text)
    while i < n:
        c = text[i]
        if c == QUOTE:
            end = i + 1
            while end < n and text[end] != QUOTE:
                end += 2 if text[end] == BACKSLASH else 1
            if depth == 1 and end < n and same(text, i + 1, end, key):
                i = space(text, end + 1)
                if i < n and text[i] == COLON:
                    i = space(text, i + 1)
                    if i < n and text[i] == OPEN_LIST:
                        return i
                continue
            i = end
        elif c == OPEN_LIST or c == OPEN_OBJECT:
            depth += 1
        elif c == CLOSE_LIST or c == CLOSE_OBJECT:
            depth -= 1
        i += 1
    return -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def bounds(text, i):  # noqa: ANN001, ANN201
    """How many records, lists and numbers there can be at most from `i` on."""
    objects, lists, commas = 0, 1, 0
    for k in range(i, len(text)):
        objects += text[k] == OPEN_OBJECT
        lists += text[k] == OPEN_LIST
        commas += text[k] == COMMA
    return min(objects, commas) + 1, lists, commas + lists


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def numbers(text, i, out, count):  # noqa: ANN001, ANN201
    """A list of numbers, appended to `out` from `count` on, and the new count."""
    n = len(text)
    if text[i] != OPEN_LIST:
        return -1, count
    i = space(text, i + 1)
    if i < n and text[i] == CLOSE_LIST:
        return i + 1, count
    while i < n and count < len(out):
        i, out[count], _, kind = number(text, i)
        if kind == NOT_PLAIN:
            return -1, count
        count += 1
        i = space(text, i)
        if i < n and text[i] == CLOSE_LIST:
            return i + 1, count
        if i >= n or text[i] != COMMA:
            return -1, count
        i = space(text, i + 1)
    return -1, count


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def integers(text, i, out, count):  # noqa: ANN001, ANN201
    """The same of integers."""
    n = len(text)
    if text[i] != OPEN_LIST:
        return -1, count
    i = space(text, i + 1)
    if i < n and text[i] == CLOSE_LIST:
        return i + 1, count
    while i < n and count < len(out):
        i, _, out[count], kind = number(text, i)
        if kind != INTEGER:
            return -1, count
        count += 1
        i = space(text, i)
        if i < n and text[i] == CLOSE_LIST:
            return i + 1, count
        if i >= n or text[i] != COMMA:
            return -1, count
        i = space(text, i + 1)
    return -1, count


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def flag(text, i):  # noqa: ANN001, ANN201
    """A number, true, false or null, and whether Python calls it true."""
    if text[i] == MINUS or ZERO <= text[i] <= NINE:
        i, value, _, _ = number(text, i)
        return i, value != 0
    for name in (_FALSE, NULL):
        end = literal(text, i, name)
        if end > 0:
            return end, False
    return literal(text, i, _TRUE), True


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def number_or_null(text, i):  # noqa: ANN001, ANN201
    """A number, or null as NaN."""
    if text[i] == NULL[0]:
        return literal(text, i, NULL), np.nan
    i, value, _, _ = number(text, i)
    return i, value


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def number(text, i):  # noqa: ANN001, ANN201
    """A number as the nearest float64 and as int64 (0 if it has a fraction), and which of the two it is."""
    n = len(text)
    negative = i < n and text[i] == MINUS
    if negative:
        i += 1
    first, digits = i, np.uint64(0)
    while i < n and ZERO <= text[i] <= NINE:
        digits = digits * np.uint64(10) + np.uint64(text[i] - ZERO)
        i += 1
    length, decimals = i - first, 0
    if length == 0 or (length > 1 and text[first] == ZERO):
        return -1, 0.0, 0, NOT_PLAIN
    has_point = i < n and text[i] == POINT
    if has_point:
        i += 1
        while i < n and ZERO <= text[i] <= NINE:
            digits = digits * np.uint64(10) + np.uint64(text[i] - ZERO)
            decimals += 1
            i += 1
    has_exponent = i < n and (text[i] | 32) == 101
    if has_exponent or (has_point and decimals == 0) or length + decimals > (19 if has_point else 18):
        return -1, 0.0, 0, NOT_PLAIN
    if not has_point:
        whole = -np.int64(digits) if negative else np.int64(digits)
        return i, np.float64(whole), whole, INTEGER
    if digits <= np.uint64(1 << 53):  # both are exact doubles, and a division is rounded to the nearest
        value = np.float64(np.int64(digits)) / _POWERS[decimals]
    else:
        value = _nearest_quotient(digits, _WHOLE_POWERS[decimals])
    return i, -value if negative else value, 0, FRACTION


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _nearest_quotient(a, b):  # noqa: ANN001, ANN202
    """The float64 nearest to a / b, ties to even; both uint64, a above 2**53, b at most 10**18."""
    one = np.uint64(1)
    quotient, rest, exponent, lost = a // b, a % b, 0, False
    while quotient >= np.uint64(1 << 54):  # 53 bits of a double, and one that rounds it
        lost = lost or (quotient & one) == one
        quotient >>= one
        exponent += 1
    while quotient < np.uint64(1 << 53):  # long division
        rest <<= one
        bit = np.uint64(rest >= b)
        quotient = (quotient << one) | bit
        rest -= b * bit
        exponent -= 1
    up = quotient & one
    quotient >>= one
    if up == one and (lost or rest > np.uint64(0) or (quotient & one) == one):
        quotient += one
    return math.ldexp(np.float64(np.int64(quotient)), exponent + 1)


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def skip(text, i):  # noqa: ANN001, ANN201
    """Any value made of plain pieces."""
    n, depth, lists = len(text), 0, 0  # bit k of `lists`: the container k levels up is a list
    while i < n:
        c = text[i]
        if c == OPEN_LIST or c == OPEN_OBJECT:
            if depth == _DEEPEST:
                return -1
            depth, lists = depth + 1, lists << 1 | (c == OPEN_LIST)
            i = space(text, i + 1)
            if i >= n or text[i] != (CLOSE_LIST if lists & 1 else CLOSE_OBJECT):
                if not lists & 1:
                    i = _after_key(text, i)
                if i < 0:
                    return -1
                continue
        elif c == QUOTE:
            i = plain_string(text, i) + 1
        elif c == MINUS or ZERO <= c <= NINE:
            i, _, _, _ = number(text, i)
        else:
            i, _ = flag(text, i)
        if i <= 0:
            return -1
        goes_on = False
        while depth > 0 and not goes_on:
            i = space(text, i)
            if i >= n:
                return -1
            if text[i] == COMMA:
                goes_on = True
                i = space(text, i + 1)
                if not lists & 1:
                    i = _after_key(text, i)
                if i < 0:
                    return -1
            elif text[i] == (CLOSE_LIST if lists & 1 else CLOSE_OBJECT):
                depth, lists, i = depth - 1, lists >> 1, i + 1
            else:
                return -1
        if depth == 0:
            return i
    return -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def _after_key(text, i):  # noqa: ANN001, ANN202
    """A plain string and its colon: where the value begins."""
    if i >= len(text) or text[i] != QUOTE:
        return -1
    end = plain_string(text, i)
    return -1 if end < 0 else after_colon(text, end + 1)


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def after_colon(text, i):  # noqa: ANN001, ANN201
    """A colon: where the value begins."""
    i = space(text, i)
    if i >= len(text) or text[i] != COLON:
        return -1
    i = space(text, i + 1)
    return i if i < len(text) else -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def plain_string(text, i):  # noqa: ANN001, ANN201
    """The closing quote of the string that opens at `i`; -1 with escapes, control characters or other than ASCII."""
    for k in range(i + 1, len(text)):
        if text[k] == QUOTE:
            return k
        if text[k] < 32 or text[k] > 127 or text[k] == BACKSLASH:
            return -1
    return -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def literal(text, i, name):  # noqa: ANN001, ANN201
    """One of json's words."""
    end = i + len(name)
    return end if end <= len(text) and same(text, i, end, name) else -1


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def same(text, first, last, name):  # noqa: ANN001, ANN201
    """Whether text[first:last] is `name`."""
    if last - first != len(name):
        return False
    for k in range(len(name)):
        if text[first + k] != name[k]:
            return False
    return True


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def space(text, i):  # noqa: ANN001, ANN201
    """The first character from `i` on that is no white space of json."""
    n = len(text)
    while i < n and (text[i] == 32 or text[i] == 10 or text[i] == 13 or text[i] == 9):
        i += 1
    return i


@njit(cache=True, nogil=True)
@no_type_check  # a wrapped function could not be compiled
def element_end(text, i):  # noqa: ANN001, ANN201
    """The comma or bracket behind a list's element, whatever it is."""
    n, depth = len(text), 0
    while i < n:
        c = text[i]
        if c == QUOTE:
            i += 1
            while i < n and text[i] != QUOTE:
                i += 2 if text[i] == BACKSLASH else 1
        elif c == OPEN_LIST or c == OPEN_OBJECT:
            depth += 1
        elif depth == 0 and (c == COMMA or c == CLOSE_LIST or c == CLOSE_OBJECT):
            return i
        elif c == CLOSE_LIST or c == CLOSE_OBJECT:
            depth -= 1
        i += 1
    return n
