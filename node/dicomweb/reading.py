"""All that clients may read: searches, instances, metadata, frames and pictures."""

from starlette.routing import BaseRoute

from node.codecs import Codecs
from node.dicomweb.query import Query, query_routes
from node.dicomweb.retrieve import Retrieve, retrieve_routes
from node.dicomweb.retrieve_images import RetrieveImages, image_routes
from node.dicomweb.settings import DicomwebSettings
from node.holdings import Holdings


def reading_routes(
    holdings: Holdings, codecs: Codecs, dicomweb: DicomwebSettings
) -> list[BaseRoute]:
    """Return the routes of QIDO-RS and WADO-RS."""
    return [
        *query_routes(Query(holdings, dicomweb)),
        *retrieve_routes(Retrieve(holdings, codecs, dicomweb)),
        *image_routes(RetrieveImages(holdings, codecs, dicomweb)),
    ]
