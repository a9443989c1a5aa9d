"""The fixture these tests share."""

from tests.people_side import people as people
