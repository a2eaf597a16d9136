"""Language models as judges of answers: endpoints, requests on disk, replies, scores."""
